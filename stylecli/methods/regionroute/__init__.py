"""RegionRoute: one object restyled by instruction, no mask given."""

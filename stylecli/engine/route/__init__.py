"""RegionRoute: its training set, its experts, and edits without masks."""

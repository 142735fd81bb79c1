"""What RegionRoute learns from: pictures, one object of each in one style, and commands."""

"""`style gallery`: pictures whose regions take their style from the regions of references."""

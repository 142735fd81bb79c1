"""`style bench-glyphs`: transfers whose true result is known, because someone drew it."""

"""Files made again from what they say of themselves."""

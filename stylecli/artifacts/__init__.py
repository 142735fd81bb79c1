"""The only code that opens pictures, adapters and results."""

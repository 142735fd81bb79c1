"""The published methods, one module each, written to be read beside the paper's equations."""

"""The papers' data sets as tasks: what a method is run on, and what its results are scored by."""

"""Recipes and inputs in, results out: planning, running, resuming. Prints nothing."""

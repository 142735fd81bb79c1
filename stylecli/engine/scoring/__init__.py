"""Scores of results, ours or another tool's: items, their rows, sets of them, and what follows."""

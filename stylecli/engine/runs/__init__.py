"""Runs: what is done already, who does the rest, and what is written down of it."""

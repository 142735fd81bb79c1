"""Styles learned: the fit, its states, and the command that makes many of them."""

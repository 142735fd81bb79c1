"""Styles for objects of pictures, by experts and in words: `style route-apply`."""

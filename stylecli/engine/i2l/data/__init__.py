"""What i2L learns from: sets of pictures sorted by style, and what a step takes from them."""

from stylecli.engine.i2l.data.items import Dataset, Item, picture, read
from stylecli.engine.i2l.data.tuples import Pick, Tuples

__all__ = ["Dataset", "Item", "Pick", "Tuples", "picture", "read"]

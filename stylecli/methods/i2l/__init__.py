"""i2L: a style LoRA from reference pictures in one forward pass (arXiv 2606.13809)."""

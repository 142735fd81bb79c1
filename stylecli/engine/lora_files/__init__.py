"""LoRA files looked into, combined and converted, without any model."""

"""What a LoRA does to the features of its model: pictures of them, and how near they stay."""

"""What turns a reference into tokens; frozen, in eval mode, without gradients."""

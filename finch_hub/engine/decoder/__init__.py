"""The decoder: forward and backward passes over packed tokens, and the loss."""

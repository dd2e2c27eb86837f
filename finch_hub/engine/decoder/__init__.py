"""Decoders: forward and backward passes over batches of tokens, and the loss."""

"""Forgetting: how far an adapter moves the model on prompts that have nothing to do with its data."""

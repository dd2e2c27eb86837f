"""Rank of each module: as requested, shared out among the modules before training, or reduced after training."""

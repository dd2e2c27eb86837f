"""Rank of each module: as requested, divided by the data before training, or reduced after training."""

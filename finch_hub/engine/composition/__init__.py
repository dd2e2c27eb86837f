"""Composition: several adapters of one base merged into one, with measured retention."""

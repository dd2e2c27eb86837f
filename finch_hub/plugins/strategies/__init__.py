"""Kernels of the built-in composition strategies, one file each, and their parameters."""

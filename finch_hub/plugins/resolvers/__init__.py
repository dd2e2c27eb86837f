"""Kernels of the built-in conflict resolvers, one file each, and their parameters."""

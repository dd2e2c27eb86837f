"""Stores of a home, and the publishing of adapters in them."""

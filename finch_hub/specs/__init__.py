"""Frozen values that layers exchange."""

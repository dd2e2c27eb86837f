"""Artifacts: the store, and the gate that checks adapters before they are stored."""

"""Plugins: hooks, descriptors, the catalog, and the built-in plugin."""

"""Plugins: the hooks, the catalog of what they offer, and the built-in ones."""

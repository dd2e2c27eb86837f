"""Built-in domain presets."""

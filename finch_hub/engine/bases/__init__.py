"""Base models: where they come from, how they are loaded, and which modules they have."""

"""A plugin of Finch Hub that adds one of everything."""

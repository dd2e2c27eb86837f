"""Sample plugin of Finch Hub with one offer of each kind."""

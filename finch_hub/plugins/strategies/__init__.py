"""Built-in composition strategies: one kernel a file, their parameters beside them."""

"""Built-in conflict resolvers: one kernel a file, their parameters beside them."""

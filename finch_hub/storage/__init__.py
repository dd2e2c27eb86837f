"""A home opened: database, artifact store and catalog, and how an adapter becomes a version."""

"""The home's own broker and worker, used when no broker is configured."""

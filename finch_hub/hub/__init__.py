"""Everything that users do with Finch Hub: a module for each use case, and `Hub` with a method for each."""

"""Programs that `make` and CI run. They are not part of the package."""

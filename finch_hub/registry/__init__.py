"""Registry of jobs, workers, adapters, bases and data sets in one database."""

"""The registry: jobs and their events, workers, adapters and where they come from, in one database."""

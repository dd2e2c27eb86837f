"""Messages through Celery and Redis: wake-ups that tell workers to look into the database."""

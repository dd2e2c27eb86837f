"""Wake-up messages through Celery and Redis, which make workers look into the database."""

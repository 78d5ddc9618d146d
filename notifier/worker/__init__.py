"""The Celery side: tasks take ids and make one call; beat calls the sweep."""

"""Celery: tasks whose bodies are one call each, and the processes that run them."""

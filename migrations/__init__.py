"""Alembic migrations of the database; versions are named by date and purpose."""

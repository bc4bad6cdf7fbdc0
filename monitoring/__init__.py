"""Watching the pipeline: checks, alerts, metrics and smoke tests."""

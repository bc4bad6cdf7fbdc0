"""Faults on the running stack: each kind, what proves that it fired, and what must hold afterwards."""

"""Benchmarks: the engine's whole job against PostgreSQL's own COPY, on real servers. Run by ``make bench``."""

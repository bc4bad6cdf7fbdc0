"""File formats: one module per container, each turning bytes into blocks of records."""

"""Every SQL statement that writes, every read that more than one place needs, and the blob store."""

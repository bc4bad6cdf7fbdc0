"""The local stack: PostgreSQL and Valkey from wheels, and the supervisor of ``dragonfly up``. A leaf: it is given values."""


class LocalStackError(Exception):
    """The local stack cannot do what was asked; the message is one sentence for a person, naming what to do."""

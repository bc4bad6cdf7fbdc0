"""Chains: the cells that follow an open quote from line to line, walked once however many lines open the same quotes.

Where every line of a file opens a quote that a later one closes, each line begins a record that would run on for as many
cells as the header has. The cells behind the first line are the same for all of them, so they are remembered.
"""

from __future__ import annotations

import re

_QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')


class Chain:
    """The cells from one quoted cell on; ``plain`` matches a cell without quotes."""

    def __init__(self, data: bytes, start: int, delimiter: int, plain: re.Pattern[bytes]) -> None:
        self.data = data
        self._delimiter = delimiter
        self._plain = plain
        self._index = {start: 0}
        self._starts = [start]
        self._ends: list[int] = []
        self._ended = False

    def index_of(self, start: int) -> int | None:
        """Which cell of the chain begins there, if any."""
        return self._index.get(start)

    def cell(self, index: int) -> tuple[int, int] | None:
        """Start and end of a cell that a delimiter follows; None from the last one on."""
        while len(self._starts) <= index + 1 and not self._ended:
            self._walk()
        return (self._starts[index], self._ends[index]) if index + 1 < len(self._starts) else None

    @property
    def last(self) -> int:
        """Which cell is the last one, once ``cell`` has come to it."""
        return len(self._starts) - 1

    @property
    def end(self) -> int | None:
        """Where the last cell ends; None where its quote is never closed."""
        return self._ends[-1] if len(self._ends) == len(self._starts) else None

    def _walk(self) -> None:
        start = self._starts[-1]
        pattern = _QUOTED if self.data[start : start + 1] == b'"' else self._plain
        found = pattern.match(self.data, start)
        if not found:
            self._ended = True
            return
        end = found.end()
        self._ends.append(end)
        if end < len(self.data) and self.data[end] == self._delimiter:
            self._index[end + 1] = len(self._starts)
            self._starts.append(end + 1)
        else:
            self._ended = True

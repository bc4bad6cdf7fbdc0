"""The part of a file that is under the reader: read on as it goes, dropped behind it."""

from __future__ import annotations

from collections.abc import Iterator

_WINDOW_BYTES = 2 * 1024 * 1024


class Window:
    """Bytes of a file from ``offset`` on; the reader stands at ``position``, an index into ``data``.

    After ``fill`` at least ``lookahead`` bytes are there behind the position, or the file's end.
    """

    def __init__(self, pieces: Iterator[bytes], lookahead: int) -> None:
        self._pieces = pieces
        self._lookahead = lookahead
        self._held: int | None = None
        self.data = b""
        self.offset = 0
        self.position = 0
        self.ended = False

    def hold(self, offset: int | None) -> None:
        """Keep the bytes from this offset of the file on, although they lie before the position; None keeps none."""
        self._held = offset

    def fill(self) -> None:
        """Read on until the lookahead is there or the file has ended; drops what lies before the position."""
        if not self.needs_filling():
            return
        keep = self.position if self._held is None else min(self.position, self._held - self.offset)
        parts = [self.data[keep:]]
        missing = self._lookahead + _WINDOW_BYTES - (len(self.data) - self.position)
        while missing > 0:
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
                break
            parts.append(piece)
            missing -= len(piece)
        self.offset += keep
        self.position -= keep
        self.data = b"".join(parts)

    def needs_filling(self) -> bool:
        """Whether the file goes on before the lookahead is there."""
        return not self.ended and len(self.data) - self.position < self._lookahead

    def exhausted(self) -> bool:
        """Whether everything was read."""
        return self.ended and self.position >= len(self.data)

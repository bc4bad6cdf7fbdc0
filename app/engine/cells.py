"""Cells in columns: where each stands among a block's bytes, and which of them are nothing but plain text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.block import Block, Plain, Positions

Octets = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

PAD = 64
"""Bytes before and behind the cells, so that a slice of fixed width may begin or end outside its cell."""

_QUOTE = ord('"')
# U+00C0 to U+00FF, letters that NFC leaves alone, are 0xC3 and one byte more.
_LATIN_LEAD = 0xC3

ASCII, LATIN, OTHER = 0, 1, 2
"""What stains a cell: nothing but printable ASCII; letters of U+00C0 to U+00FF too; anything else, doubled quotes too."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a cell's bytes are ``octets[starts:ends]``, its outer quotes left out; ``stains`` as above."""

    octets: Octets
    starts: Numbers
    ends: Numbers
    stains: Octets

    @property
    def lengths(self) -> Numbers:
        return self.ends - self.starts

    @property
    def firsts(self) -> Octets:
        """The first byte of each cell; of an empty one, some byte."""
        return self.octets[self.starts]

    @property
    def finals(self) -> Octets:
        """The last byte of each cell; of an empty one, some byte."""
        return self.octets[self.ends - 1]

    def chosen(self, which: Flags | Numbers) -> Column:
        """The same column of fewer rows."""
        return Column(self.octets, self.starts[which], self.ends[which], self.stains[which])

    def from_left(self, width: int) -> Octets:
        """The first ``width`` (at most PAD) bytes of every cell, whatever its length, one row of bytes for each."""
        return windows(self.octets, self.starts, width)

    def from_right(self, width: int) -> Octets:
        """The last ``width`` (at most PAD) bytes before the end of every cell."""
        return windows(self.octets, self.ends - width, width)


def windows(octets: Octets, starts: Numbers, width: int) -> Octets:
    """``width`` bytes from each of the starts on, as rows."""
    # Copies of fixed width are an order of magnitude faster than an index for every byte.
    view = np.ndarray((len(octets) - width + 1,), f"V{width}", octets, strides=(1,))
    return view[starts].view(np.uint8).reshape(len(starts), width)


class Cells:
    """The cells of a block's plain records, all columns over one padded copy of the bytes."""

    def __init__(self, block: Block, plain: Plain) -> None:
        self._plain = plain
        first, behind = int(plain.starts[0]), int(plain.record_ends[-1])
        self.shift = PAD - first
        self.octets = np.empty(behind - first + 2 * PAD, np.uint8)
        self.octets[:PAD] = self.octets[-PAD:] = 0
        content = self.octets[PAD:-PAD]
        content[:] = np.frombuffer(block.data, np.uint8)[first:behind]
        self._stains = self._stained(content, first)

    def column(self, index: int) -> Column:
        """One column of the file, 0-based."""
        plain = self._plain
        starts = plain.ends[:, index - 1] + (self.shift + 1) if index else plain.starts + self.shift
        ends = plain.ends[:, index] + self.shift
        # An empty cell's first byte is what ends it, never a quote.
        quoted = self.octets[starts] == _QUOTE
        if quoted.any():
            starts += quoted
            ends -= quoted
        return Column(self.octets, starts, ends, self._stains[:, index])

    def _stained(self, content: Octets, first: int) -> Octets:
        plain = self._plain
        stains = np.zeros(plain.ends.shape, np.uint8)
        low, high = np.searchsorted(plain.stains, (first, first + len(content)))
        positions = plain.stains[low:high]
        latin = content[positions - first] == _LATIN_LEAD
        self._stain(stains, positions[latin], LATIN)
        self._stain(stains, positions[~latin], OTHER)
        return stains

    def _stain(self, stains: Octets, positions: Positions, stain: int) -> None:
        if not len(positions):
            return
        ends = self._plain.ends.ravel()
        cell = np.searchsorted(ends, positions, side="right")
        column = cell % self._plain.ends.shape[1]
        starts = np.where(column == 0, self._plain.starts[cell // self._plain.ends.shape[1]], ends[cell - 1] + 1)
        stains.reshape(-1)[cell[starts <= positions]] = stain

"""Packing: accepted rows in key order, each as the bytes that COPY BINARY takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from app.engine.cells import PAD, Flags, Numbers, Octets, windows
from app.rows import COPY_COLUMNS, Packed

TEXTS = ("case_number", "defendant_name", "plaintiff_name", "court", "county")
"""The texts of a packed row, in its order."""

# The fields of fixed length, in the order of COPY_COLUMNS, each behind its length. An amount has three digits of base
# 10,000 before the point and one behind it, each in two bytes; PostgreSQL drops the zeros.
_HEAD = np.dtype(
    [
        ("fields", ">i2"),
        ("id_length", ">i4"),
        ("id", ">i8"),
        ("date_length", ">i4"),
        ("date", ">i4"),
        ("amount_length", ">i4"),
        ("digits", ">i2"),
        ("weight", ">i2"),
        ("sign", ">i2"),
        ("scale", ">i2"),
        ("amount", ">i8"),
        ("batch_length", ">i4"),
        ("batch", "V16"),
        ("row_index_length", ">i4"),
        ("row_index", ">i4"),
        ("line_number_length", ">i4"),
        ("line_number", ">i4"),
        ("case_number_length", ">i4"),
    ]
)
_DATE_OFFSET = 14
_DATE_BYTES = 4
_BASE = 10_000
_WIDEST = 64
_WORD = 8
_PREFIX = 4


def place_of(field: str) -> int:
    """Where a field of fixed length, or its length, begins in a packed row that has a date."""
    fields = _HEAD.fields
    if fields is None:
        raise TypeError("the head has no fields")
    return int(fields[field][1])


@dataclass(frozen=True, slots=True)
class Values:
    """Accepted rows by columns, in file order. A text of length -1 is NULL; so is a date where ``dated`` is false."""

    octets: Octets
    texts: Mapping[str, tuple[Numbers, Numbers]]
    cents: Numbers
    days: Numbers
    dated: Flags
    row_index: Numbers
    line_number: Numbers
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.cents)


def pack(values: Values, batch_id: UUID) -> Packed:
    """The rows by (case_number, row_index)."""
    starts, lengths = values.texts["case_number"]
    keys = _key_matrix(values.octets, starts, lengths)
    order = key_order(keys)
    octets, ends = _assembled(values, keys, order, batch_id)
    return Packed(octets, ends, keys.take(order, axis=0), values.places[order])


def _key_matrix(octets: Octets, starts: Numbers, lengths: Numbers) -> Octets:
    """The keys in upper case, one row of bytes each, filled up with zeros, which no key contains."""
    width = -(-int(lengths.max()) // _WORD) * _WORD
    if width <= _WIDEST:
        keys = windows(octets, starts, width)
    else:
        keys = np.empty((len(starts), width), np.uint8)
        for first in range(0, width, _WIDEST):
            piece = min(_WIDEST, width - first)
            # A short key's further pieces may lie beyond the end: any place will do, for they are blanked.
            places = np.minimum(starts + first, len(octets) - PAD)
            keys[:, first : first + piece] = windows(octets, places, piece)
    # Row n keeps n bytes; words are blanked, not single bytes.
    kept = (np.arange(width) < np.arange(width + 1)[:, None]) * np.uint8(0xFF)
    words = keys.view(np.uint64)
    words &= kept.view(np.uint64).take(lengths, axis=0)
    lower = (keys - np.uint8(ord("a"))) <= ord("z") - ord("a")
    if lower.any():
        # Letters beyond ASCII are in upper case already; all their bytes lie above z.
        keys[lower] -= ord("a") - ord("A")
    return keys


def key_order(keys: Octets) -> Numbers:
    """The stable order of the keys' bytes."""
    varying = np.flatnonzero(_varying(keys))
    if not len(varying):
        return np.arange(len(keys))
    packed = np.zeros((len(keys), -(-len(varying) // _WORD) * _WORD), np.uint8)
    for place, column in enumerate(varying.tolist()):
        packed[:, place] = keys[:, column]
    words = packed.view(">u8").astype(np.uint64)
    if words.shape[1] == 1:
        return _word_order(words[:, 0])
    return np.lexsort(words.T[::-1])


def _varying(keys: Octets) -> Flags:
    """Which bytes are not the same in all keys."""
    if keys.shape[1] % _WORD or not keys.flags.c_contiguous:
        plainly: Flags = (keys != keys[0]).any(axis=0)
        return plainly
    words = keys.view(np.uint64)
    differing = np.array([np.bitwise_or.reduce(column ^ column[0]) for column in words.T], np.uint64)
    varying: Flags = differing.view(np.uint8) != 0
    return varying


def _word_order(words: npt.NDArray[np.uint64]) -> Numbers:
    """The stable order of the words."""
    # A sort that need not be stable is several times faster, and few words come twice: those are put in order after it.
    order = np.argsort(words)
    placed = words[order]
    same = placed[1:] == placed[:-1]
    if same.any():
        begins = np.concatenate((np.ones(1, np.bool_), ~same))
        tied = np.flatnonzero(~(begins & np.append(begins[1:], True)))
        among = order[tied]
        order[tied] = among[np.lexsort((among, np.cumsum(begins)[tied]))]
    return order


def _assembled(values: Values, keys: Octets, order: Numbers, batch_id: UUID) -> tuple[Octets, Numbers]:
    """The rows' bytes in the given order, and where each ends."""
    lengths = [np.maximum(values.texts[name][1], 0) for name in TEXTS]
    undated = ~values.dated
    sizes = sum(lengths, _HEAD.itemsize + _PREFIX * (len(TEXTS) - 1) - undated * _DATE_BYTES)
    ends = np.cumsum(sizes[order])
    octets = np.empty(int(ends[-1]) + _WIDEST, np.uint8)
    starts = np.empty(len(values), np.int64)
    starts[order] = ends
    starts -= sizes
    # Copies of fixed width run over a text's end; what they run into is written after them: the texts of a row follow one
    # another, and the heads, longer than any overrun, come last.
    cursor = starts + _HEAD.itemsize - undated * _DATE_BYTES
    _write_keys(octets, cursor, keys, lengths[0])
    cursor += lengths[0]
    for name, length in zip(TEXTS[1:], lengths[1:], strict=True):
        _write_texts(octets, cursor, values.octets, *values.texts[name])
        cursor += length
        cursor += _PREFIX
    _write_heads(octets, starts, _heads(values, batch_id), values.dated)
    return octets[: ends[-1]], ends


def _write_keys(octets: Octets, into: Numbers, keys: Octets, lengths: Numbers) -> None:
    for first in range(0, keys.shape[1], _WIDEST):
        piece = np.ascontiguousarray(keys[:, first : first + _WIDEST])
        rows = piece.view(f"V{piece.shape[1]}").ravel()
        target = _overlapping(octets, rows.dtype)
        if first:
            which = np.flatnonzero(lengths > first)
            target[into[which] + first] = rows[which]
        else:
            target[into] = rows


def _write_texts(octets: Octets, into: Numbers, sources: Octets, starts: Numbers, lengths: Numbers) -> None:
    """Write texts, each behind its length, in pieces of one width; a length of -1 is NULL."""
    longest = int(lengths.max())
    width = min(_WIDEST, max(longest, 0))
    # Some bytes stand before every text; they make room for its length.
    piece = np.dtype([("length", ">i4"), ("text", f"V{width}")])
    first = _overlapping(sources, f"V{piece.itemsize}")[starts - _PREFIX]
    first.view(piece)["length"] = lengths
    _overlapping(octets, first.dtype)[into] = first
    for begin in range(_WIDEST, longest, _WIDEST):
        which = np.flatnonzero(lengths > begin)
        further = f"V{min(_WIDEST, longest - begin)}"
        _overlapping(octets, further)[into[which] + _PREFIX + begin] = _overlapping(sources, further)[
            starts[which] + begin
        ]


def _heads(values: Values, batch_id: UUID) -> np.ndarray:
    """The fields of fixed length, as if every row had a date."""
    same = np.zeros((), _HEAD)
    same["fields"], same["id_length"], same["date_length"] = len(COPY_COLUMNS), 8, _DATE_BYTES
    same["amount_length"], same["digits"], same["weight"], same["scale"] = 16, 4, 2, 2
    same["batch_length"], same["batch"] = 16, np.void(batch_id.bytes)
    same["row_index_length"] = same["line_number_length"] = 4
    heads = np.full(len(values), same.view(f"V{_HEAD.itemsize}")).view(_HEAD)
    heads["date"] = values.days
    whole = values.cents // 100
    upper = whole // _BASE
    top = upper // _BASE
    digits = (top << 16) + upper - top * _BASE
    digits = (digits << 16) + whole - upper * _BASE
    heads["amount"] = (digits << 16) + (values.cents - whole * 100) * 100
    heads["row_index"], heads["line_number"] = values.row_index, values.line_number
    heads["case_number_length"] = values.texts["case_number"][1]
    return heads


def _write_heads(octets: Octets, starts: Numbers, heads: np.ndarray, dated: Flags) -> None:
    undated = np.flatnonzero(~dated)
    if len(undated):
        rows = heads.view(np.uint8).reshape(len(heads), _HEAD.itemsize)
        short = rows[undated]
        short[:, _DATE_OFFSET : _DATE_OFFSET + _PREFIX] = 0xFF
        behind = _DATE_OFFSET + _PREFIX + _DATE_BYTES
        short[:, behind - _DATE_BYTES : -_DATE_BYTES] = rows[undated, behind:]
        # What stands behind a shorter head is written again with it, so that all heads are written at once.
        short[:, -_DATE_BYTES:] = windows(octets, starts[undated] + _HEAD.itemsize - _DATE_BYTES, _DATE_BYTES)
        rows[undated] = short
    whole = heads.view(f"V{_HEAD.itemsize}")
    _overlapping(octets, whole.dtype)[starts] = whole


def _overlapping(octets: Octets, element: str | np.dtype[Any]) -> np.ndarray:
    """An element at every byte."""
    kind = np.dtype(element)
    return np.ndarray((len(octets) - kind.itemsize + 1,), kind, octets, strides=(1,))


def taken(rows: pa.BinaryArray, which: Numbers) -> tuple[Octets, Numbers]:
    """The chosen elements one behind the other, and where each ends."""
    if not len(which):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    chosen = rows.take(pa.array(which))
    _, offsets, octets = chosen.buffers()
    ends = np.frombuffer(offsets, np.int32)[chosen.offset + 1 : chosen.offset + len(chosen) + 1].astype(np.int64)
    return np.frombuffer(octets, np.uint8)[: ends[-1]], ends

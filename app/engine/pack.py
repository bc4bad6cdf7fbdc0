"""Packing: accepted rows in key order, each as the bytes that COPY BINARY takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pyarrow as pa

from app.engine.cells import PAD, Flags, Numbers, Octets, windows
from app.rows import COPY_COLUMNS, Packed

TEXTS = ("case_number", "defendant_name", "plaintiff_name", "court", "county")
"""The texts of a packed row, in its order."""

# The fields of fixed length, in the order of COPY_COLUMNS, each behind its length. An amount has three digits of base
# 10,000 before the point and one behind it; PostgreSQL drops the zeros.
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
        ("amount", ">i2", 4),
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
_NULL = -1
_BASE = 10_000
_WIDEST = 64
_SMALLEST_CLASS = 8
_WORD = 8


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
    return Packed(octets, ends, keys[order], values.places[order])


def _key_matrix(octets: Octets, starts: Numbers, lengths: Numbers) -> Octets:
    """The keys in upper case, one row of bytes each, filled up with zeros, which no key contains."""
    width = -(-int(lengths.max()) // _WORD) * _WORD
    keys = np.empty((len(starts), width), np.uint8)
    for first in range(0, width, _WIDEST):
        piece = min(_WIDEST, width - first)
        # A short key's further pieces may lie beyond the end: any place will do, for they are blanked.
        places = np.minimum(starts + first, len(octets) - PAD)
        keys[:, first : first + piece] = windows(octets, places, piece)
    keys *= np.tri(width + 1, width, -1, dtype=np.uint8)[lengths]
    lower = (keys - np.uint8(ord("a"))) <= ord("z") - ord("a")
    if lower.any():
        # Letters beyond ASCII are in upper case already; all their bytes lie above z.
        keys[lower] -= ord("a") - ord("A")
    return keys


def key_order(keys: Octets) -> Numbers:
    """The stable order of the keys' bytes."""
    varying = (keys != keys[0]).any(axis=0)
    width = int(varying.sum())
    if not width:
        return np.arange(len(keys))
    packed = np.zeros((len(keys), -(-width // _WORD) * _WORD), np.uint8)
    packed[:, :width] = keys[:, varying]
    words = packed.view(">u8").astype(np.uint64)
    if words.shape[1] == 1:
        return np.argsort(words[:, 0], kind="stable")
    return np.lexsort(words.T[::-1])


def _assembled(values: Values, keys: Octets, order: Numbers, batch_id: UUID) -> tuple[Octets, Numbers]:
    """The rows' bytes in the given order, and where each ends."""
    sizes = _HEAD.itemsize - np.where(values.dated, 0, _DATE_BYTES)
    sizes += np.maximum(values.texts["case_number"][1], 0)
    for name in TEXTS[1:]:
        sizes += 4 + np.maximum(values.texts[name][1], 0)
    # Rows of similar size share a stride, so that one long row does not stretch all others.
    classes = np.maximum(np.frexp(sizes.astype(np.float64))[1], _SMALLEST_CLASS)
    groups = [np.flatnonzero(classes == size) for size in np.unique(classes)]
    strides = [int(sizes[group].max()) + _WIDEST for group in groups]
    room = sum(len(group) * stride for group, stride in zip(groups, strides, strict=True))
    draft = np.empty(room + _WIDEST, np.uint8)
    bases = np.empty(len(values), np.int64)
    rank = np.empty(len(values), np.int64)
    base = ranked = 0
    for group, stride in zip(groups, strides, strict=True):
        bases[group] = base + np.arange(len(group)) * stride
        rank[group] = ranked + np.arange(len(group))
        _write(draft, values, keys, group, base=base, stride=stride, batch_id=batch_id)
        base += len(group) * stride
        ranked += len(group)
    # Between two rows lies the rest of a stride: every second element is a row.
    offsets = np.empty(2 * len(values) + 1, np.int32)
    offsets[2 * rank] = bases
    offsets[2 * rank + 1] = bases + sizes
    offsets[-1] = base
    rows = pa.Array.from_buffers(pa.binary(), 2 * len(values), [None, pa.py_buffer(offsets), pa.py_buffer(draft)])
    return taken(rows, rank[order] * 2)


def taken(rows: pa.BinaryArray, which: Numbers) -> tuple[Octets, Numbers]:
    """The chosen elements one behind the other, and where each ends."""
    if not len(which):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    chosen = rows.take(pa.array(which))
    _, offsets, octets = chosen.buffers()
    ends = np.frombuffer(offsets, np.int32)[chosen.offset + 1 : chosen.offset + len(chosen) + 1].astype(np.int64)
    return np.frombuffer(octets, np.uint8)[: ends[-1]], ends


def _write(
    draft: Octets, values: Values, keys: Octets, group: Numbers, *, base: int, stride: int, batch_id: UUID
) -> None:
    """Write the group's rows into the draft, one every ``stride`` bytes from ``base`` on."""
    head = np.ndarray((len(group),), _HEAD, draft, base, (stride,))
    dated = values.dated[group]
    cents = values.cents[group]
    whole = cents // 100
    head["fields"] = len(COPY_COLUMNS)
    head["id_length"], head["id"] = 8, 0
    head["date_length"], head["date"] = _DATE_BYTES, values.days[group]
    head["amount_length"], head["digits"], head["weight"], head["sign"], head["scale"] = 16, 4, 2, 0, 2
    amount = head["amount"]
    amount[:, 0], amount[:, 1] = whole // _BASE**2, whole // _BASE % _BASE
    amount[:, 2], amount[:, 3] = whole % _BASE, cents % 100 * 100
    head["batch_length"], head["batch"] = 16, np.void(batch_id.bytes)
    head["row_index_length"], head["row_index"] = 4, values.row_index[group]
    head["line_number_length"], head["line_number"] = 4, values.line_number[group]
    head["case_number_length"] = values.texts["case_number"][1][group]
    undated = np.flatnonzero(~dated)
    if len(undated):
        rows = np.ndarray((len(group), _HEAD.itemsize), np.uint8, draft, base, (stride, 1))
        behind = _DATE_OFFSET + 4 + _DATE_BYTES
        moved = rows[undated, behind:]
        rows[undated, _DATE_OFFSET : _DATE_OFFSET + 4] = 0xFF
        rows[undated, _DATE_OFFSET + 4 : _HEAD.itemsize - _DATE_BYTES] = moved
    cursor = base + np.arange(len(group)) * stride + _HEAD.itemsize - np.where(dated, 0, _DATE_BYTES)
    flat = keys.reshape(-1)
    padded = np.concatenate((flat, np.zeros(_WIDEST, np.uint8)))
    lengths = values.texts["case_number"][1][group]
    _copy(draft, cursor, padded, group * keys.shape[1], lengths)
    cursor += lengths
    prefix = np.ndarray((len(draft) - 3,), ">i4", draft, strides=(1,))
    for name in TEXTS[1:]:
        starts, lengths = values.texts[name]
        lengths = lengths[group]
        prefix[cursor] = lengths
        cursor += 4
        lengths = np.maximum(lengths, 0)
        _copy(draft, cursor, values.octets, starts[group], lengths)
        cursor += lengths


def _copy(draft: Octets, into: Numbers, octets: Octets, starts: Numbers, lengths: Numbers) -> None:
    """Copy texts, in pieces of one width; what is copied beyond a text's end is written over by what follows it."""
    longest = int(lengths.max())
    for first in range(0, longest, _WIDEST):
        width = min(_WIDEST, longest - first)
        which = np.flatnonzero(lengths > first) if first else slice(None)
        source = np.ndarray((len(octets) - width + 1,), f"V{width}", octets, strides=(1,))
        target = np.ndarray((len(draft) - width + 1,), f"V{width}", draft, strides=(1,))
        target[into[which] + first] = source[starts[which] + first]

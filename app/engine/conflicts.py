"""Conflicts: the rows whose key another row holds already, each with the fields in which it differs from that one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import repeat

import numpy as np
import orjson

from app.engine.cells import Flags, Numbers, Octets, windows
from app.engine.pack import place_of
from app.rows import CONFLICT_COLUMNS, VALUE_NAMES, Conflicts, Packed, Standing

_PAD = 64
_EPOCH = dt.date(2000, 1, 1)
_UNDATED = np.iinfo(np.int32).min
# Places in a packed row: the date's length and days, then all else four bytes earlier where there is no date.
_DATE_AT, _DIGITS_AT, _BATCH_AT, _ROW_AT, _KEY_AT = map(
    place_of, ("date_length", "amount", "batch", "row_index", "case_number_length")
)
# Places in a judgment that stands.
_KEPT_BATCH_AT, _KEPT_ROW_AT, _KEPT_CENTS_AT, _KEPT_KEY_AT = 12, 36, 48, 60
_TYPE_BYTES = 4
_BATCH_BYTES, _DAYS_BYTES, _LENGTH_BYTES = 16, 4, 4
_TEXTS = ("defendant_name", "plaintiff_name", "court", "county")
_BASE = 10_000

_HEAD = np.dtype(
    [
        ("count", ">i2"),
        ("batch_length", ">i4"),
        ("batch", "V16"),
        ("row_length", ">i4"),
        ("row_index", ">i4"),
        ("kept_batch_length", ">i4"),
        ("kept_batch", "V16"),
        ("kept_row_length", ">i4"),
        ("kept_row_index", ">i4"),
        ("key_length", ">i4"),
    ]
)
NO_CONFLICTS = Conflicts(b"", b"", 0, 0, 0)


def among(rows: Packed, firsts: Flags, before: Packed | None) -> Conflicts:
    """The rows that are not the first of their key in the file, against the first; ``before`` is the first of the key
    with which the rows go on from an earlier portion.
    """
    repeats = np.flatnonzero(~firsts)
    if not len(repeats):
        return NO_CONFLICTS
    kept = np.maximum.accumulate(np.where(firsts, np.arange(len(rows)), -1))[repeats]
    ours = _Judgments.packed(rows)
    if before is None or (kept >= 0).all():
        return _packed(ours, repeats, ours, kept)
    early = kept < 0
    first = _Judgments.packed(before)
    return joined(
        (
            _packed(ours, repeats[early], first, np.zeros(int(early.sum()), np.int64)),
            _packed(ours, repeats[~early], ours, kept[~early]),
        )
    )


def joined(parts: Sequence[Conflicts]) -> Conflicts:
    """All of them, one behind the other."""
    return Conflicts(
        b"".join(part.same for part in parts),
        b"".join(part.different for part in parts),
        *(sum(counts) for counts in zip(*((part.rows, part.differing, part.cents) for part in parts), strict=True)),
    )


class Meeting:
    """Rows in key order, and the judgments that stand under their keys."""

    def __init__(self, rows: Packed, standing: Standing) -> None:
        self.partners = np.full(len(rows), -1)
        """For each row its judgment's place, -1 where none stands."""
        if not len(standing):
            return
        self._ours, self._kept = _Judgments.packed(rows), _Judgments.standing(standing)
        width = max(rows.keys.shape[1], self._kept.longest_key)
        # Two sorted lists of texts; a dictionary is still ten times faster than searching the one in the other.
        kept = _as_texts(self._kept.keys(width))
        places = dict(zip(kept, range(len(kept)), strict=True))
        self.partners[:] = list(map(places.get, _as_texts(rows.keys), repeat(-1)))

    @property
    def stands(self) -> Flags:
        """Which rows meet a judgment."""
        found: Flags = self.partners >= 0
        return found

    def conflicts(self, *, apart: bool = False) -> Conflicts:
        """The rows that meet a judgment, against it; ``apart`` from those that are that very judgment."""
        which = np.flatnonzero(self.stands)
        if not len(which):
            return NO_CONFLICTS
        if apart:
            which = which[~self._is_itself(which)]
        return _packed(self._ours, which, self._kept, self.partners[which])

    def _is_itself(self, which: Numbers) -> Flags:
        partners = self.partners[which]
        same: Flags = (self._ours.batches(which) == self._kept.batches(partners)).all(axis=1)
        same &= self._ours.row_index[which] == self._kept.row_index[partners]
        return same


class _Judgments:
    """Values by columns, read from rows of bytes of either form."""

    def __init__(self, octets: Octets, ends: Numbers) -> None:
        self.octets = np.concatenate((octets, np.zeros(_PAD, np.uint8)))
        starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
        self.starts = starts
        self._whole = np.ndarray((len(self.octets) - _LENGTH_BYTES + 1,), ">i4", self.octets, strides=(1,))
        self.batch_at = self.key_at = self.key_lengths = self.row_index = self.cents = self.days = starts
        self.texts: dict[str, tuple[Numbers, Numbers]] = {}
        """Where each text begins and how long it is, -1 where it is NULL."""

    @classmethod
    def packed(cls, rows: Packed) -> _Judgments:
        found = cls(rows.octets, rows.ends)
        found.days, shift = found._dates(found.starts + _DATE_AT)
        at = found.starts + shift
        digits = np.ndarray((len(found.octets) - 1,), ">i2", found.octets, strides=(1,))
        millions, tens, units, cents = (digits[at + _DIGITS_AT + place].astype(np.int64) for place in (0, 2, 4, 6))
        found.cents = ((millions * _BASE + tens) * _BASE + units) * 100 + cents // 100
        found.batch_at = at + _BATCH_AT
        found.row_index = found._integers(at + _ROW_AT)
        found.key_lengths = found._integers(at + _KEY_AT)
        found.key_at = at + _KEY_AT + _LENGTH_BYTES
        found._find_texts(found.key_at + found.key_lengths)
        return found

    @classmethod
    def standing(cls, judgments: Standing) -> _Judgments:
        found = cls(judgments.octets, judgments.ends)
        starts = found.starts
        found.batch_at = starts + _KEPT_BATCH_AT
        found.row_index = found._integers(starts + _KEPT_ROW_AT)
        cents = np.ndarray((len(found.octets) - 7,), ">i8", found.octets, strides=(1,))
        found.cents = cents[starts + _KEPT_CENTS_AT].astype(np.int64)
        found.key_lengths = found._integers(starts + _KEPT_KEY_AT)
        found.key_at = starts + _KEPT_KEY_AT + _LENGTH_BYTES
        dates_at = found.key_at + found.key_lengths + _TYPE_BYTES
        found.days, shift = found._dates(dates_at)
        found._find_texts(dates_at + _LENGTH_BYTES + _DAYS_BYTES + shift, _TYPE_BYTES)
        return found

    @property
    def longest_key(self) -> int:
        return int(self.key_lengths.max())

    def keys(self, width: int) -> Octets:
        """The keys, one row of bytes each, filled up with zeros."""
        keys = np.zeros((len(self.starts), width), np.uint8)
        for first in range(0, self.longest_key, _PAD):
            piece = min(_PAD, width - first)
            which = np.flatnonzero(self.key_lengths > first)
            keys[which, first : first + piece] = windows(self.octets, self.key_at[which] + first, piece)
        keys[np.arange(width) >= self.key_lengths[:, None]] = 0
        return keys

    def batches(self, which: Numbers) -> Octets:
        """The batch ids, 16 bytes each."""
        return windows(self.octets, self.batch_at[which], _BATCH_BYTES)

    def values(self, index: int) -> dict[str, str | None]:
        """The values by name, as a conflict shows them."""
        cents, days = int(self.cents[index]), int(self.days[index])
        found: dict[str, str | None] = {
            "judgment_amount": f"{cents // 100}.{cents % 100:02d}",
            "judgment_date": None if days == _UNDATED else (_EPOCH + dt.timedelta(days)).isoformat(),
        }
        for name, (starts, lengths) in self.texts.items():
            start, length = int(starts[index]), int(lengths[index])
            found[name] = None if length < 0 else self.octets[start : start + length].tobytes().decode()
        return found

    def _find_texts(self, at: Numbers, before: int = 0) -> None:
        """Each text comes behind its length, and that behind ``before`` bytes."""
        for name in _TEXTS:
            lengths = self._integers(at + before)
            starts = at + before + _LENGTH_BYTES
            self.texts[name] = starts, lengths
            at = starts + np.maximum(lengths, 0)

    def _dates(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """Days since 2000-01-01, and by how many bytes a NULL makes the row shorter, as a negative number."""
        dated = self._whole[at] == _DAYS_BYTES
        days = np.where(dated, self._whole[at + _LENGTH_BYTES], _UNDATED)
        return days, np.where(dated, 0, -_DAYS_BYTES)

    def _integers(self, at: Numbers) -> Numbers:
        return self._whole[at].astype(np.int64)


def _same(ours: _Judgments, which: Numbers, kept: _Judgments, partners: Numbers) -> Flags:
    """Which pairs hold the same values."""
    same: Flags = (ours.cents[which] == kept.cents[partners]) & (ours.days[which] == kept.days[partners])
    for name in _TEXTS:
        starts, lengths = (column[which] for column in ours.texts[name])
        others, others_lengths = (column[partners] for column in kept.texts[name])
        same &= lengths == others_lengths
        for first in range(0, int(lengths.max()), _PAD):
            open_pairs = np.flatnonzero(same & (lengths > first))
            width = min(_PAD, int(lengths.max()) - first)
            left = windows(ours.octets, starts[open_pairs] + first, width)
            right = windows(kept.octets, others[open_pairs] + first, width)
            beyond = np.arange(width) >= (lengths[open_pairs] - first)[:, None]
            same[open_pairs] = ((left == right) | beyond).all(axis=1)
    return same


def _packed(ours: _Judgments, which: Numbers, kept: _Judgments, partners: Numbers) -> Conflicts:
    """The chosen rows as conflicts with their partners."""
    if not len(which):
        return NO_CONFLICTS
    same = _same(ours, which, kept, partners)
    head = np.empty(len(which), _HEAD)
    head["count"] = len(CONFLICT_COLUMNS) - same
    head["batch_length"] = head["kept_batch_length"] = _BATCH_BYTES
    head["row_length"] = head["kept_row_length"] = _LENGTH_BYTES
    head["batch"] = ours.batches(which).view("V16").ravel()
    head["row_index"] = ours.row_index[which]
    head["kept_batch"] = kept.batches(partners).view("V16").ravel()
    head["kept_row_index"] = kept.row_index[partners]
    head["key_length"] = ours.key_lengths[which]
    different = np.flatnonzero(~same)
    pairs = zip(which[different].tolist(), partners[different].tolist(), strict=True)
    fields = [_differences(ours.values(row), kept.values(partner)) for row, partner in pairs]
    return Conflicts(
        _written(head[same], ours, which[same], []),
        _written(head[different], ours, which[different], fields),
        len(which),
        len(different),
        int(ours.cents[which].sum()),
    )


def _written(head: np.ndarray, ours: _Judgments, which: Numbers, fields: list[bytes]) -> bytes:
    """Each head with its key behind it, and then its fields, if any row has some."""
    if not len(which):
        return b""
    lengths = ours.key_lengths[which]
    sizes = _HEAD.itemsize + lengths
    if fields:
        sizes += [len(content) for content in fields]
    ends = np.cumsum(sizes)
    heads_at = ends - sizes
    key_at = heads_at + _HEAD.itemsize
    octets = np.empty(int(ends[-1]) + _PAD, np.uint8)
    # Keys are copied in one width; what stands beyond a key's end is written over by what follows it.
    for first in range(0, int(lengths.max()), _PAD):
        longer = np.flatnonzero(lengths > first)
        keys = windows(ours.octets, ours.key_at[which[longer]] + first, _PAD)
        _places(octets, _PAD)[key_at[longer] + first] = keys.view(f"V{_PAD}")[:, 0]
    for content, end in zip(fields, ends.tolist(), strict=False):
        octets[end - len(content) : end] = np.frombuffer(content, np.uint8)
    _places(octets, _HEAD.itemsize)[heads_at] = head.view(f"V{_HEAD.itemsize}")
    return octets[: ends[-1]].tobytes()


def _places(octets: Octets, width: int) -> np.ndarray:
    """Slices of one width from every byte on."""
    return np.ndarray((len(octets) - width + 1,), f"V{width}", octets, strides=(1,))


def _differences(ours: dict[str, str | None], kept: dict[str, str | None]) -> bytes:
    """Field -> [kept, refused], as COPY BINARY takes a jsonb."""
    found = orjson.dumps({name: [kept[name], ours[name]] for name in VALUE_NAMES if kept[name] != ours[name]})
    return (len(found) + 1).to_bytes(_LENGTH_BYTES) + b"\x01" + found


def _as_texts(keys: Octets) -> list[bytes]:
    texts: list[bytes] = np.ascontiguousarray(keys).view(f"S{keys.shape[1]}").ravel().tolist()
    return texts

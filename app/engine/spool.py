"""The spool: what a batch's check found, on local disk between the check and the load, in bounded memory."""

from __future__ import annotations

import heapq
import marshal
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from app.rows import AcceptedRow, RowError

_CHUNK_ROWS = 500
_RUN_ROWS = 50_000
_RUN_BYTES = 32 * 1024 * 1024
_LENGTH = struct.Struct("<I")
# What a tuple of short texts takes in memory beyond its characters.
_ROW_OVERHEAD = 600


class _ChunkFile:
    """Lists of plain tuples, one behind the other in a file, read back by offset."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0

    def append(self, rows: list[Any]) -> int:
        """Write one chunk; returns its offset. OSError where the disk is full; no file is left open then."""
        content = marshal.dumps(rows)
        offset = self.size
        with self._path.open("ab") as file:
            file.write(_LENGTH.pack(len(content)))
            file.write(content)
        self.size += _LENGTH.size + len(content)
        return offset

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[list[Any]]:
        """The chunks from offset ``start`` up to before ``end``."""
        with self._path.open("rb") as file:
            file.seek(start)
            while end is None or file.tell() < end:
                head = file.read(_LENGTH.size)
                if not head:
                    return
                # Written by this very attempt, in a folder that only this user may enter.
                yield marshal.loads(file.read(_LENGTH.unpack(head)[0]))  # noqa: S302


class ErrorSpool:
    """Row errors in file order; small batches never touch the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _ChunkFile | None = None
        self._buffer: list[RowError] = []
        self._buffered_bytes = 0
        self.count = 0

    def append(self, error: RowError) -> None:
        self._buffer.append(error)
        self._buffered_bytes += len(error[6]) + len(error[7]) + _ROW_OVERHEAD
        self.count += 1
        if self._buffered_bytes > _RUN_BYTES // 8:
            self._file = self._file or _ChunkFile(self._path)
            self._file.append(self._buffer)
            self._buffer, self._buffered_bytes = [], 0

    def __iter__(self) -> Iterator[RowError]:
        if self._file is not None:
            for chunk in self._file.chunks():
                yield from chunk
        yield from self._buffer


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A run of rows in key order that starts with a new key; may be read more than once."""

    rows_count: int
    duplicates: int
    """Rows whose key is that of the row before."""
    _source: list[AcceptedRow] | _ChunkFile
    _start: int
    _end: int

    def rows(self) -> Iterator[AcceptedRow]:
        """The rows by (case_number, row_index)."""
        if isinstance(self._source, list):
            yield from self._source
        else:
            for chunk in self._source.chunks(self._start, self._end):
                yield from chunk


class RowSpool:
    """The accepted rows: sorted runs while they come, one sorted sequence when they are all there.

    Rows are ordered by case_number as Python compares texts, by code point: the byte order of UTF-8, COLLATE "C".
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffer: list[AcceptedRow] = []
        self._buffered_bytes = 0
        self._runs: list[_ChunkFile] = []
        self.count = 0

    def append(self, row: AcceptedRow, size: int) -> None:
        """Add a row; ``size`` is about its length in bytes."""
        self._buffer.append(row)
        self._buffered_bytes += size + _ROW_OVERHEAD
        self.count += 1
        if len(self._buffer) >= _RUN_ROWS or self._buffered_bytes > _RUN_BYTES:
            self._write_run()

    def ranges(
        self, most: int, *, least_rows: int = 20_000, alive: Callable[[], None] = lambda: None
    ) -> list[KeyRange]:
        """All rows in key order, cut into at most ``most`` ranges of distinct keys; call once, after the last append.

        ``alive`` is called as the merge goes on.
        """
        if not self._runs:
            self._buffer.sort()
            if not self._buffer:
                return []
            duplicates = _duplicates(self._buffer, None)
            return [KeyRange(len(self._buffer), duplicates, self._buffer, 0, 0)]
        self._write_run()
        return self._merge(max(least_rows, -(-self.count // most)), alive)

    def _write_run(self) -> None:
        if not self._buffer:
            return
        self._buffer.sort()
        run = _ChunkFile(self._folder / f"run-{len(self._runs):05}")
        for start in range(0, len(self._buffer), _CHUNK_ROWS):
            run.append(self._buffer[start : start + _CHUNK_ROWS])
        self._runs.append(run)
        self._buffer, self._buffered_bytes = [], 0

    def _merge(self, rows_per_range: int, alive: Callable[[], None]) -> list[KeyRange]:
        merged = _ChunkFile(self._folder / "sorted")
        ranges: list[KeyRange] = []
        chunk: list[AcceptedRow] = []
        start = rows = duplicates = 0
        key: str | None = None

        for row in heapq.merge(*(_rows_of(run) for run in self._runs)):
            if row[0] == key:
                duplicates += 1
            elif rows >= rows_per_range:
                merged.append(chunk)
                chunk = []
                ranges.append(KeyRange(rows, duplicates, merged, start, merged.size))
                start, rows, duplicates = merged.size, 0, 0
            key = row[0]
            chunk.append(row)
            rows += 1
            if len(chunk) >= _CHUNK_ROWS:
                merged.append(chunk)
                chunk = []
                alive()
        if chunk:
            merged.append(chunk)
        ranges.append(KeyRange(rows, duplicates, merged, start, merged.size))
        return ranges


class Spool:
    """The folder of one attempt, made when it is entered and removed when it is left, whatever happened inside.

    Folders of earlier attempts at the same batch, which a killed worker left on this machine, are removed too.
    """

    def __init__(self, root: Path, batch_id: str, fence: int) -> None:
        self._root = root
        self._batch_id = batch_id
        self.folder = root / f"{batch_id}-{fence}"

    def __enter__(self) -> Spool:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._root.glob(f"{self._batch_id}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def folders(root: Path) -> list[SpoolFolder]:
        """What stands on the disk under ``root``, of attempts that run and of those that were killed."""
        found = []
        for path in root.glob("*-*"):
            batch_id, _, fence = path.name.rpartition("-")
            try:
                found.append(SpoolFolder(path, UUID(batch_id), int(fence)))
            except ValueError:
                continue
        return found


@dataclass(frozen=True, slots=True)
class SpoolFolder:
    """The folder of one attempt, as found on the disk."""

    path: Path
    batch_id: UUID
    fence: int

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _rows_of(run: _ChunkFile) -> Iterator[AcceptedRow]:
    for chunk in run.chunks():
        yield from chunk


def _duplicates(rows: list[AcceptedRow], key: str | None) -> int:
    count = 0
    for row in rows:
        count += row[0] == key
        key = row[0]
    return count

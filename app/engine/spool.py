"""The spool: what a batch's check found, on local disk between the check and the load, in bounded memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np

from app.engine.cells import Numbers, Octets
from app.rows import PLACE, Packed

_ERROR_BYTES = 4 * 1024 * 1024
SAMPLE_ROWS = 128
"""Of so many rows of a run, the key of one is kept in memory."""


class ErrorSpool:
    """Packed row errors in file order. A few stay in memory; many go to ``outlet`` where there is one, else to the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self.count = 0
        """All that were ever appended."""
        self.outlet: Callable[[list[bytes]], None] | None = None
        """Takes a few megabytes of errors at a time, which are forgotten here."""

    def append(self, error: bytes) -> None:
        """Keep one more. Raises OSError where the disk is full, and whatever the outlet raises."""
        self._buffer.append(error)
        self._buffered_bytes += len(error)
        self.count += 1
        if self._buffered_bytes > _ERROR_BYTES:
            full, self._buffer, self._buffered_bytes = self._buffer, [], 0
            if self.outlet is not None:
                self.outlet(full)
                return
            self._file = self._file or self._path.open("wb+")
            self._file.writelines(full)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()

    def take(self) -> Iterator[bytes]:
        """What is still here, in pieces of one or more errors; it is forgotten as it is read."""
        if self._file is not None:
            with self._file as file:
                self._file = None
                file.seek(0)
                while piece := file.read(_ERROR_BYTES):
                    yield piece
        rest, self._buffer, self._buffered_bytes = self._buffer, [], 0
        yield from rest


class Run:
    """Rows in key order, in memory until they are written to a file behind other runs."""

    def __init__(self, rows: Packed) -> None:
        self.count = len(rows)
        self.size = len(rows.octets)
        self.width = rows.keys.shape[1]
        self.samples = rows.keys[::SAMPLE_ROWS].copy()
        self._rows: Packed | None = rows
        self._file = -1
        self._keys_at = self._ends_at = self._places_at = self._octets_at = 0

    def write(self, file: BinaryIO) -> None:
        """Move the rows to the end of the file. Raises OSError where the disk is full."""
        rows = self._rows
        if rows is None:
            return
        self._keys_at = file.tell()
        self._ends_at = self._keys_at + _write(file, rows.keys)
        self._places_at = self._ends_at + _write(file, rows.ends)
        self._octets_at = self._places_at + _write(file, rows.places)
        _write(file, rows.octets)
        self._file = file.fileno()
        self._rows = None

    def keys(self) -> Octets:
        """All keys, one row of bytes each."""
        if self._rows is not None:
            return self._rows.keys
        return self._read(self._keys_at, np.dtype(np.uint8), self.count * self.width).reshape(self.count, self.width)

    def part(self, first: int, behind: int) -> Packed:
        """The rows from ``first`` up to before ``behind``."""
        if self._rows is not None:
            return self._rows.part(first, behind)
        count = behind - first
        keys = self._read(self._keys_at + first * self.width, np.dtype(np.uint8), count * self.width)
        before = 1 if first else 0
        ends: Numbers = self._read(self._ends_at + (first - before) * 8, np.dtype(np.int64), count + before)
        start = int(ends[0]) if before else 0
        places = self._read(self._places_at + first * PLACE.itemsize, PLACE, count)
        octets = self._read(self._octets_at + start, np.dtype(np.uint8), int(ends[-1]) - start)
        return Packed(octets, ends[before:] - start, keys.reshape(count, self.width), places)

    def _read(self, offset: int, kind: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
        # Not mapped into memory: what was read would count as the worker's own.
        size = count * kind.itemsize
        pieces = []
        while size:
            piece = os.pread(self._file, size, offset)
            if not piece:
                raise OSError("the spool is shorter than what was written to it")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), kind)


def _write(file: BinaryIO, values: np.ndarray[Any, Any]) -> int:
    """All of the values' bytes, and how many they are: one call of an unbuffered file may write fewer."""
    octets = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    written = 0
    while written < len(octets):
        written += file.write(octets[written:])
    return written


class RowSpool:
    """The accepted rows: one sorted run for each block, in file order. A single run never touches the disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rows"
        self._file: BinaryIO | None = None
        self.runs: list[Run] = []
        self.count = 0

    def add(self, rows: Packed) -> None:
        """Add a run. Raises OSError where the disk is full."""
        self.runs.append(Run(rows))
        self.count += len(rows)
        if len(self.runs) > 1:
            if self._file is None:
                self._file = self._path.open("wb+", buffering=0)
                self.runs[0].write(self._file)
            self.runs[-1].write(self._file)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Spool:
    """The folder of one attempt, made when it is entered and removed when it is left, whatever happened inside.

    Folders of earlier attempts at the same batch, which a killed worker left on this machine, are removed too.
    """

    def __init__(self, root: Path, batch_id: str, fence: int) -> None:
        self._root = root
        self._batch_id = batch_id
        self._fence = fence
        self.folder = root / f"{batch_id}-{fence}"
        self._files = ExitStack()

    def closing(self, close: Callable[[], None]) -> None:
        """Have this called before the folder is removed."""
        self._files.callback(close)

    def __enter__(self) -> Spool:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for found in self.folders(self._root):
            # Not that of a later attempt: this one may have stood still since its claim.
            if str(found.batch_id) == self._batch_id and found.fence < self._fence:
                found.remove()
        self.folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        # What a full disk left in a buffer is of no use to anyone.
        with suppress(OSError):
            self._files.close()
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

    def size(self) -> int:
        """Its files' bytes; what goes while it is counted is left out."""
        found = 0
        for path in self.path.rglob("*"):
            with suppress(OSError):
                found += path.stat().st_size if path.is_file() else 0
        return found

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

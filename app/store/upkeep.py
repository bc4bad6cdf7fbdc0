"""The files of a blob store as its collector sees them: what lies there, how old by the store's own clock, and how it goes.

A blob is removed in two steps, so that a removal which turns out wrong can be taken back: it is set aside, then forgotten.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import obstore
from obstore.store import ObjectStore

from app.store.blobs import (
    BlobMissingError,
    FolderBlobs,
    ObjectBlobs,
    disk_errors,
    fsync_folder,
    key_of,
    make_durable_folders,
    object_store_errors,
    open_blobs,
)

_BLOBS, _ARRIVALS, _ASIDE = "sha256/", "incoming/", "aside/"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the store; ``modified`` is by the store's clock."""

    key: str
    size: int
    modified: dt.datetime

    @property
    def file_hash(self) -> str | None:
        """The SHA-256 under which a blob lies; None where this is no blob's key."""
        name = self.key.rpartition("/")[2]
        return name if self.key in (key_of(name), _ASIDE + name) else None


class Upkeep(Protocol):
    """What a collector needs of a store. Everything raises StorageError where the store cannot be used."""

    def now(self) -> dt.datetime:
        """The time by the store's own clock, which is not that of this machine."""
        ...

    def blobs(self, after: str = "") -> Iterator[Stored]:
        """The blobs whose key comes behind ``after``, in the order of their keys."""
        ...

    def arrivals(self) -> Iterator[Stored]:
        """The files on their way in, and those whose receiver has died."""
        ...

    def aside(self) -> Iterator[Stored]:
        """What was set aside, by a collector that has died since."""
        ...

    def find(self, key: str) -> Stored | None:
        """The file under this key, or None."""
        ...

    def set_aside(self, file_hash: str) -> None:
        """Take a blob from its place. Raises BlobMissingError."""
        ...

    def put_back(self, file_hash: str) -> None:
        """Have a blob that was set aside in its place again; what stands there by now has the same bytes, and stays."""
        ...

    def forget(self, file_hash: str) -> None:
        """Remove for good what was set aside."""
        ...

    def remove_arrival(self, key: str) -> None:
        """Remove a file that never arrived; no error where it is gone."""
        ...


def open_upkeep(storage_url: str) -> Upkeep:
    """The store that ``open_blobs`` opens at this address. Raises StorageError."""
    blobs = open_blobs(storage_url)
    if isinstance(blobs, FolderBlobs):
        return FolderUpkeep(blobs.root)
    if isinstance(blobs, ObjectBlobs):
        return ObjectUpkeep(blobs.store)
    raise TypeError(f"{type(blobs).__name__} has no upkeep")


class FolderUpkeep:
    """A folder on local disk or on a file server, whose clock stamps what is written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def now(self) -> dt.datetime:
        probe = self._root / _ARRIVALS / str(uuid.uuid4())
        with disk_errors("read the store's clock"):
            probe.touch(mode=0o600, exist_ok=False)
            try:
                return _time(probe.stat().st_mtime)
            finally:
                probe.unlink(missing_ok=True)

    def blobs(self, after: str = "") -> Iterator[Stored]:
        return self._files(self._root / _BLOBS, after)

    def arrivals(self) -> Iterator[Stored]:
        return self._files(self._root / _ARRIVALS)

    def aside(self) -> Iterator[Stored]:
        return self._files(self._root / _ASIDE)

    def find(self, key: str) -> Stored | None:
        with disk_errors("look at a file"):
            try:
                found = (self._root / key).stat()
            except FileNotFoundError:
                return None
        return Stored(key, found.st_size, _time(found.st_mtime))

    def set_aside(self, file_hash: str) -> None:
        place = self._root / key_of(file_hash)
        with disk_errors("set a file aside"):
            make_durable_folders(self._root / _ASIDE, self._root)
            place.replace(self._root / _ASIDE / file_hash)
            fsync_folder(self._root / _ASIDE)

    def put_back(self, file_hash: str) -> None:
        place = self._root / key_of(file_hash)
        with disk_errors("put a file back"), suppress(FileNotFoundError):
            if not place.exists():
                (self._root / _ASIDE / file_hash).replace(place)
                fsync_folder(place.parent)
        self.forget(file_hash)

    def forget(self, file_hash: str) -> None:
        self.remove_arrival(_ASIDE + file_hash)

    def remove_arrival(self, key: str) -> None:
        with disk_errors("remove a file"):
            (self._root / key).unlink(missing_ok=True)

    def _files(self, folder: Path, after: str = "") -> Iterator[Stored]:
        """The files below a folder in the order of their keys; one that goes in the meantime is left out."""
        with disk_errors("list the files"):
            try:
                entries = sorted(folder.iterdir())
            except FileNotFoundError:
                return
        for entry in entries:
            key = str(entry.relative_to(self._root))
            if entry.is_dir():
                # Everything in a folder comes before the position if the folder's own name does and does not begin it.
                if key >= after[: len(key)]:
                    yield from self._files(entry, after)
            elif key > after and (found := self.find(key)) is not None:
                yield found


class ObjectUpkeep:
    """An object store. A move is a copy on the server's side and then a removal."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def now(self) -> dt.datetime:
        probe = f"{_ARRIVALS}{uuid.uuid4()}"
        with object_store_errors("read the store's clock"):
            obstore.put(self._store, probe, b"\n")
            try:
                return obstore.head(self._store, probe)["last_modified"]
            finally:
                obstore.delete(self._store, probe)

    def blobs(self, after: str = "") -> Iterator[Stored]:
        return self._files(_BLOBS, after)

    def arrivals(self) -> Iterator[Stored]:
        return self._files(_ARRIVALS)

    def aside(self) -> Iterator[Stored]:
        return self._files(_ASIDE)

    def find(self, key: str) -> Stored | None:
        try:
            with object_store_errors("look at a file"):
                found = obstore.head(self._store, key)
        except BlobMissingError:
            return None
        return Stored(key, found["size"], found["last_modified"])

    def set_aside(self, file_hash: str) -> None:
        with object_store_errors("set a file aside"):
            obstore.copy(self._store, key_of(file_hash), _ASIDE + file_hash)
            obstore.delete(self._store, key_of(file_hash))

    def put_back(self, file_hash: str) -> None:
        if self.find(key_of(file_hash)) is None and self.find(_ASIDE + file_hash) is not None:
            with object_store_errors("put a file back"):
                obstore.copy(self._store, _ASIDE + file_hash, key_of(file_hash))
        self.forget(file_hash)

    def forget(self, file_hash: str) -> None:
        self.remove_arrival(_ASIDE + file_hash)

    def remove_arrival(self, key: str) -> None:
        with suppress(BlobMissingError), object_store_errors("remove a file"):
            obstore.delete(self._store, key)

    def _files(self, prefix: str, after: str = "") -> Iterator[Stored]:
        with object_store_errors("list the files"):
            for page in obstore.list(self._store, prefix, offset=after or None):
                for found in page:
                    if found["path"] > after:
                        yield Stored(found["path"], found["size"], found["last_modified"])


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)

"""The blob store: uploaded files by the SHA-256 of their content, immutable, on local disk or in an object store."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

Answer = TypeVar("Answer")

READ_BYTES = 1024 * 1024
_RANGE_BYTES = 4 * READ_BYTES
_ANSWER_SECONDS = 10.0
"""A range that has not come by then is given up, before the reader's lease runs out: the attempt ends, and does not count."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageError(Exception):
    """The blob store cannot be used just now; the message names the operation and the cause."""


class StorageFullError(StorageError):
    """There is no room left."""


class BlobMissingError(StorageError):
    """There is no blob under this key."""


class Incoming(ABC):
    """A file on its way in: hashed while it is written, kept or discarded by its receiver."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Append; returns the number of bytes. Raises StorageError."""
        self._append(data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def sha256(self) -> str:
        """SHA-256 of what has been written so far, in hex."""
        return self._hash.hexdigest()

    @abstractmethod
    def _append(self, data: bytes) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Make what was written durable. Safe to call twice."""

    @abstractmethod
    def discard(self) -> None:
        """Remove it, whatever has become of it. Safe to call twice, and after it was kept."""


class Blobs(Protocol):
    """What the pipeline needs of a store of files."""

    def incoming(self) -> Incoming:
        """Begin a file. Raises StorageError."""
        ...

    def keep(self, incoming: Incoming) -> str:
        """Put a finished file under the key of its content and return the key; durable when this returns.

        The caller holds the advisory lock on the hash. What stands there already is replaced by the same bytes.
        """
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The blob in pieces of about 1 MiB. Raises BlobMissingError, StorageError."""
        ...

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """The bytes from ``start`` up to before ``end``. Raises BlobMissingError, StorageError."""
        ...

    def remove(self, key: str) -> None:
        """Remove a blob for good. Raises BlobMissingError, StorageError.

        The caller holds the advisory lock on the hash, and has made sure that no batch needs it.
        """
        ...

    def check(self) -> None:
        """Raise StorageError where the store cannot be used."""
        ...


def key_of(sha256: str) -> str:
    """Where the content with this hash is kept."""
    return f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def open_blobs(storage_url: str) -> Blobs:
    """The store at a folder (made if need be), or at an s3://, gs:// or az:// address. Raises StorageError."""
    if "://" not in storage_url:
        return FolderBlobs(Path(storage_url))
    if storage_url.startswith("file://"):
        return FolderBlobs(Path(storage_url.removeprefix("file://")))
    try:
        return ObjectBlobs(from_url(storage_url))
    except (BaseError, ValueError) as problem:
        # The problem's own text holds the address, which may hold a password.
        scheme = storage_url.partition("://")[0]
        raise StorageError(
            f"STORAGE_URL cannot be used ({type(problem).__name__} at {scheme}://): it is to be a folder, or an address of a "
            "store, which begins with s3://, gs:// or az://"
        ) from None


class FolderBlobs:
    """Blobs on local disk. File and folder are fsynced before a key is returned; obstore's local store never does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with disk_errors("make the folder"):
            for folder in (root, root / "incoming"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fsync_folder(root.parent)

    def incoming(self) -> _IncomingFile:
        with disk_errors("begin a file"):
            return _IncomingFile(self.root / "incoming" / str(uuid.uuid4()))

    def keep(self, incoming: Incoming) -> str:
        if not isinstance(incoming, _IncomingFile):
            raise TypeError("this file belongs to another store")
        incoming.close()
        key = key_of(incoming.sha256())
        target = self.root / key
        with disk_errors("keep a file"):
            make_durable_folders(target.parent, self.root)
            incoming.path.replace(target)
            fsync_folder(target.parent)
        return key

    def read(self, key: str) -> Iterator[bytes]:
        with disk_errors("read a file"), self._open(key) as file:
            while piece := file.read(READ_BYTES):
                yield piece

    def read_range(self, key: str, start: int, end: int) -> bytes:
        with disk_errors("read a file"), self._open(key) as file:
            file.seek(start)
            return file.read(end - start)

    def remove(self, key: str) -> None:
        with disk_errors("remove a file"):
            (self.root / key).unlink()
            fsync_folder((self.root / key).parent)

    def _open(self, key: str) -> BinaryIO:
        try:
            return (self.root / key).open("rb", buffering=0)
        except FileNotFoundError:
            if not (self.root / "sha256").is_dir():
                # A folder that is not mounted has lost no file; "incoming" is made by whoever starts beside it.
                raise StorageError(f"could not read a file: {self.root} is not there") from None
            raise

    def check(self) -> None:
        with disk_errors("reach the folder"):
            (self.root / "incoming").stat()
            if not os.access(self.root / "incoming", os.W_OK):
                raise OSError(errno.EACCES, "the folder is not writable")


class _IncomingFile(Incoming):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file: BinaryIO | None = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def _append(self, data: bytes) -> None:
        if self._file is None:
            raise StorageError("the file is closed")
        with disk_errors("write a file"):
            self._file.write(data)

    def close(self) -> None:
        if self._file is None:
            return
        with disk_errors("write a file"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._file = None

    def discard(self) -> None:
        if self._file is not None:
            # What a full disk left in the buffer is of no use to anyone.
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
        self.path.unlink(missing_ok=True)


class ObjectBlobs:
    """Blobs in an object store that obstore speaks to: streamed to ``incoming/``, then copied on the server's side."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def incoming(self) -> _IncomingObject:
        return _IncomingObject(self.store, f"incoming/{uuid.uuid4()}")

    def keep(self, incoming: Incoming) -> str:
        if not isinstance(incoming, _IncomingObject):
            raise TypeError("this file belongs to another store")
        incoming.close()
        key = key_of(incoming.sha256())
        with object_store_errors("keep a file"):
            obstore.copy(self.store, incoming.key, key)
        incoming.discard()
        return key

    def read(self, key: str) -> Iterator[bytes]:
        # A range at a time: one answer may be read for three minutes at most, and a check may take longer.
        with object_store_errors("read a file"):
            size = _in_time(lambda: obstore.head_async(self.store, key))["size"]
            for start in range(0, size, _RANGE_BYTES):
                end = min(start + _RANGE_BYTES, size)
                piece = self._range(key, start, end)
                for offset in range(0, len(piece), READ_BYTES):
                    yield piece[offset : offset + READ_BYTES]

    def read_range(self, key: str, start: int, end: int) -> bytes:
        with object_store_errors("read a file"):
            return self._range(key, start, end)

    def _range(self, key: str, start: int, end: int) -> bytes:
        return bytes(_in_time(lambda: obstore.get_range_async(self.store, key, start=start, end=end)))

    def remove(self, key: str) -> None:
        with object_store_errors("remove a file"):
            # To delete what is not there is no fault in an object store.
            obstore.head(self.store, key)
            obstore.delete(self.store, key)

    def check(self) -> None:
        with object_store_errors("reach the store"):
            obstore.list_with_delimiter(self.store, "incoming/")


class _IncomingObject(Incoming):
    def __init__(self, store: ObjectStore, key: str) -> None:
        super().__init__()
        self.key = key
        self._store = store
        with object_store_errors("begin a file"):
            self._writer = obstore.open_writer(store, key)
        self._open = True

    def _append(self, data: bytes) -> None:
        with object_store_errors("write a file"):
            self._writer.write(data)

    def close(self) -> None:
        if self._open:
            with object_store_errors("write a file"):
                self._writer.close()
            self._open = False

    def discard(self) -> None:
        # The upload is closed before it is deleted: an object store has no way to delete what is still being written.
        try:
            self.close()
            with object_store_errors("discard a file"):
                obstore.delete(self._store, self.key)
        except StorageError:
            # What cannot be discarded now is an orphan, which the collector removes.
            self._open = False


def _in_time(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """What the store answers. Raises StorageError where it does not: by itself it would be asked again for minutes."""

    async def attempt() -> Answer:
        return await asyncio.wait_for(ask(), _ANSWER_SECONDS)

    try:
        return asyncio.run(attempt())
    except TimeoutError:
        raise StorageError(f"could not read a file: no answer within {_ANSWER_SECONDS:g} s") from None


def make_durable_folders(folder: Path, root: Path) -> None:
    """Make the folder with all above it, below ``root``. One that is there may have been made a moment ago, by somebody who
    died before it was durable, so each is fsynced in any case; where nothing is to be written that costs next to nothing."""
    if folder == root:
        return
    make_durable_folders(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
    fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(operation: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BlobMissingError(f"could not {operation}: it is not there") from None
    except OSError as problem:
        kind = StorageFullError if problem.errno in _FULL else StorageError
        raise kind(f"could not {operation}: {os.strerror(problem.errno or 0)}") from None


@contextmanager
def object_store_errors(operation: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BlobMissingError(f"could not {operation}: it is not there") from None
    except (BaseError, OSError) as problem:
        raise StorageError(f"could not {operation}: {type(problem).__name__}") from None

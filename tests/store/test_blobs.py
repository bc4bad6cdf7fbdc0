"""The blob stores, on a folder and on an object store: where content lies, and what is on the disk when they say so."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore, S3Store

from app.store import blobs
from app.store.blobs import (
    READ_BYTES,
    BlobMissingError,
    Blobs,
    FolderBlobs,
    ObjectBlobs,
    StorageError,
    StorageFullError,
    key_of,
    open_blobs,
)

CONTENT = b"case_number,defendant_name,judgment_amount\n" * 1_000
HASH = hashlib.sha256(CONTENT).hexdigest()
KEY = f"sha256/{HASH[:2]}/{HASH[2:4]}/{HASH}"

_KEYS = {"region": "us-east-1", "access_key_id": "tests", "secret_access_key": "tests"}

KINDS: dict[str, Callable[[Path], Blobs]] = {
    "folder": FolderBlobs,
    "memory": lambda _: ObjectBlobs(MemoryStore()),
    "objects": lambda folder: ObjectBlobs(LocalStore(str(folder), mkdir=True)),
}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Each kind of store in turn, empty."""
    return KINDS[request.param](tmp_path / "blobs")


def kept(store: Blobs, content: bytes = CONTENT) -> str:
    incoming = store.incoming()
    incoming.write(content)
    incoming.close()
    return store.keep(incoming)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size``, as if its disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestEveryStore:
    def test_content_lies_under_its_hash(self, store: Blobs) -> None:
        assert kept(store) == KEY == key_of(HASH)
        assert b"".join(store.read(KEY)) == CONTENT

    def test_it_is_hashed_and_measured_while_it_is_written(self, store: Blobs) -> None:
        incoming = store.incoming()
        assert [incoming.write(CONTENT[:7]), incoming.write(b""), incoming.write(CONTENT[7:])] == [
            7,
            0,
            len(CONTENT) - 7,
        ]
        assert (incoming.size, incoming.sha256()) == (len(CONTENT), HASH)
        incoming.discard()

    def test_a_range_is_read_alone(self, store: Blobs) -> None:
        kept(store)
        assert store.read_range(KEY, 5, 17) == CONTENT[5:17]

    def test_nothing_is_content_too(self, store: Blobs) -> None:
        key = kept(store, b"")
        assert b"".join(store.read(key)) == b""

    def test_the_same_content_again_replaces_what_stands(self, store: Blobs) -> None:
        assert kept(store) == kept(store)
        assert b"".join(store.read(KEY)) == CONTENT

    def test_what_is_not_there_is_missing(self, store: Blobs) -> None:
        kept(store)
        with pytest.raises(BlobMissingError):
            list(store.read(key_of("0" * 64)))
        with pytest.raises(BlobMissingError):
            store.read_range(key_of("0" * 64), 0, 5)

    def test_a_discarded_file_cannot_be_read_and_may_be_discarded_twice(self, store: Blobs) -> None:
        incoming = store.incoming()
        incoming.write(CONTENT)
        incoming.discard()
        incoming.discard()
        kept(store, b"another")
        with pytest.raises(BlobMissingError):
            list(store.read(KEY))

    def test_discarding_what_was_kept_keeps_it(self, store: Blobs) -> None:
        incoming = store.incoming()
        incoming.write(CONTENT)
        incoming.close()
        incoming.close()
        store.keep(incoming)
        incoming.discard()
        assert b"".join(store.read(KEY)) == CONTENT

    def test_what_is_removed_is_gone_and_nothing_else(self, store: Blobs) -> None:
        other = kept(store, b"another file")
        store.remove(kept(store))
        with pytest.raises(BlobMissingError):
            list(store.read(KEY))
        with pytest.raises(BlobMissingError):
            store.remove(KEY)
        assert b"".join(store.read(other)) == b"another file"

    def test_it_can_be_used(self, store: Blobs) -> None:
        store.check()
        incoming = store.incoming()
        assert incoming.write(b"x") == 1
        incoming.discard()

    def test_a_file_of_another_store_is_refused(self, store: Blobs, tmp_path: Path) -> None:
        other: Blobs = ObjectBlobs(MemoryStore()) if isinstance(store, FolderBlobs) else FolderBlobs(tmp_path / "other")
        incoming = other.incoming()
        with pytest.raises(TypeError):
            store.keep(incoming)
        incoming.discard()


@pytest.mark.parametrize("kind", ["folder", "objects"])
def test_large_content_is_read_in_pieces(kind: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path / "blobs")
    content = os.urandom(3 * READ_BYTES + 5)
    pieces = list(store.read(kept(store, content)))
    assert b"".join(pieces) == content
    assert len(pieces) >= 3
    assert max(map(len, pieces)) <= 2 * READ_BYTES


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "blobs"

    def test_only_its_user_may_enter(self, folder: Path) -> None:
        kept(FolderBlobs(folder))
        assert {path.stat().st_mode & 0o077 for path in [folder, *folder.rglob("*")]} == {0}

    def test_a_kept_file_leaves_nothing_behind(self, folder: Path) -> None:
        kept(FolderBlobs(folder))
        assert files(folder) == {KEY}

    def test_a_discarded_file_leaves_nothing_behind(self, folder: Path) -> None:
        incoming = FolderBlobs(folder).incoming()
        incoming.write(CONTENT)
        incoming.discard()
        assert files(folder) == set()

    def test_content_and_every_new_folder_are_on_disk_before_the_key_is_returned(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = FolderBlobs(folder)
        done: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def record_fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            size = f" {path.stat().st_size}" if path.is_file() else ""
            done.append(
                f"fsync {str(path.relative_to(folder)).partition('/')[0] if size else path.relative_to(folder)}{size}"
            )
            fsync(descriptor)

        def record_replace(self: Path, target: Path) -> Path:
            done.append(f"rename {target.relative_to(folder)}")
            return replace(self, target)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(Path, "replace", record_replace)
        kept(store)
        assert done == [
            f"fsync incoming {len(CONTENT)}",
            "fsync .",
            "fsync sha256",
            f"fsync sha256/{HASH[:2]}",
            f"rename {KEY}",
            f"fsync {Path(KEY).parent}",
        ]
        # Whoever made the folders may have died before they were durable.
        first, done[:] = done[:], []
        kept(store)
        assert done == first

    def test_a_folder_that_is_not_mounted_has_lost_no_file(self, folder: Path) -> None:
        """Whoever starts beside an empty mount point makes "incoming" there."""
        with pytest.raises(StorageError, match="is not there") as problem:
            list(FolderBlobs(folder).read(KEY))
        assert not isinstance(problem.value, BlobMissingError)

    @pytest.mark.parametrize("size", [10_000, 10_000_000])
    def test_a_full_disk_is_said_and_leaves_nothing(self, folder: Path, size: int) -> None:
        store = FolderBlobs(folder)
        incoming = store.incoming()

        def write_all() -> None:
            for _ in range(size // 10_000):
                incoming.write(b"x" * 10_000)
            incoming.close()

        with files_of_at_most(8_192), pytest.raises(StorageFullError, match="write a file"):
            write_all()
        incoming.discard()
        assert files(folder) == set()

    def test_a_folder_that_cannot_be_made_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="make the folder"):
            FolderBlobs(tmp_path / "file" / "blobs")

    def test_a_lost_folder_fails_the_check(self, folder: Path) -> None:
        store = FolderBlobs(folder)
        (folder / "incoming").rmdir()
        with pytest.raises(StorageError):
            store.check()
        with pytest.raises(StorageError):
            store.incoming()


class TestObjects:
    def test_nothing_stays_under_incoming(self, tmp_path: Path) -> None:
        store = ObjectBlobs(LocalStore(str(tmp_path), mkdir=True))
        kept(store)
        left = store.incoming()
        left.write(CONTENT)
        left.discard()
        assert files(tmp_path) == {KEY}

    def test_a_file_is_read_range_by_range(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One answer that is read for minutes is broken off."""
        monkeypatch.setattr(blobs, "_RANGE_BYTES", 1_000)
        store = ObjectBlobs(MemoryStore())
        kept(store)
        pieces = list(store.read(KEY))
        assert [len(piece) for piece in pieces] == [1_000] * (len(CONTENT) // 1_000)
        assert b"".join(pieces) == CONTENT

    def test_a_store_that_says_nothing_is_given_up_before_a_lease_runs_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blobs, "_ANSWER_SECONDS", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            store = ObjectBlobs(S3Store("bucket", endpoint=address, client_options={"allow_http": True}, **_KEYS))
            for read in (lambda: list(store.read(KEY)), lambda: store.read_range(KEY, 0, 5)):
                began = time.monotonic()
                with pytest.raises(StorageError, match="no answer within 1 s"):
                    read()
                assert time.monotonic() - began < 5

    def test_a_store_that_cannot_be_reached_is_said(self) -> None:
        store = open_blobs("s3://bucket?endpoint=http://127.0.0.1:1")
        with pytest.raises(StorageError):
            store.check()


class TestAddresses:
    def test_a_path_and_a_file_address_are_folders(self, tmp_path: Path) -> None:
        for url in (str(tmp_path / "one"), f"file://{tmp_path / 'two'}"):
            assert isinstance(open_blobs(url), FolderBlobs)
        assert (tmp_path / "one" / "incoming").is_dir()
        assert (tmp_path / "two" / "incoming").is_dir()

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://host/path",
            "nonsense://",
            "s3://",
            "bogus://u:geheim@x",
            "az://geheim",
            "https://u:geheim@[x",
            "s3://u:geheim@x:y",
        ],
    )
    def test_an_address_that_means_nothing_is_said_and_not_shown(self, url: str) -> None:
        with pytest.raises(StorageError, match=r"STORAGE_URL cannot be used \(\w+ at \w+://\)") as caught:
            open_blobs(url)
        assert "geheim" not in str(caught.value)
        assert "\n" not in str(caught.value)

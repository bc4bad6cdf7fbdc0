"""What clients do: all at once, too slowly, half; and blobs that are not what they were."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from app.pause import Point
from app.store.blobs import key_of
from tests.faults.files import KnownFile
from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import Stack, until

AT_ONCE = 20
SLOW = 200


class SameFileAtOnce(Fault):
    """Twenty clients upload the same file in the same moment."""

    name = f"the same file uploaded {AT_ONCE} times at once"

    def inject(self, scene: Scene) -> None:
        file = scene.file()
        together = threading.Barrier(AT_ONCE)
        answers: list[httpx.Response] = []

        def send() -> None:
            together.wait()
            with httpx.Client(headers=dict(scene.stack.http.headers), timeout=60, trust_env=False) as client:
                answers.append(
                    client.post(
                        scene.stack.info["web"] + "/api/v1/intake/upload",
                        files={"file": (file.name, file.content)},
                    )
                )

        senders = [threading.Thread(target=send) for _ in range(AT_ONCE)]
        scene.strike()
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(60)
        statuses = sorted(answer.status_code for answer in answers)
        ids = {answer.json()["batch_id"] for answer in answers if answer.status_code in (200, 202)}
        assert len(ids) == 1, statuses
        scene.accept(ids.pop(), file)
        scene.fired.append(f"{len(answers)} answers, of which {statuses.count(202)} made a batch")
        assert statuses == [200] * (AT_ONCE - 1) + [202], statuses
        assert scene.stack.rows("SELECT count(*) FROM intake.batches WHERE file_hash = %s", file.file_hash) == [(1,)]


class SlowDrip(Fault):
    """Two hundred uploads that come a byte at a time: others are served, and files are taken again afterwards."""

    name = f"{SLOW} slow-drip uploads"
    outage = True

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        file = scene.file(100)
        head, body = _request(stack, file)
        dripping = [_connection(stack) for _ in range(SLOW)]
        try:
            for place, drip in enumerate(dripping):
                drip.sendall(head + body[: 200 + place % 7])
            scene.strike()
            asked = []
            for turn in range(8):
                for drip in dripping:
                    with contextlib.suppress(OSError):
                        drip.send(body[300 + turn : 301 + turn])
                began = time.monotonic()
                assert stack.http.get("/healthz", timeout=10).status_code == 200
                stack.http.get("/api/v1/intake/batches?limit=1", timeout=10).raise_for_status()
                asked.append(time.monotonic() - began)
                time.sleep(0.1)
            busy = self._status_of(scene, scene.file(100))
            refused = sum(_answer_of(drip).startswith(b"HTTP/1.1 503") for drip in dripping)
        finally:
            for drip in dripping:
                drip.close()
        if refused and refused < SLOW:
            scene.fired.append(
                f"{SLOW - refused} uploads dripped, {refused} were refused, others asked within {max(asked):.2f} s"
            )
        assert busy in (202, 503)
        scene.heal()
        until(lambda: self._status_of(scene, file) in (200, 202), 40, "a file is taken again")

    def _status_of(self, scene: Scene, file: KnownFile) -> int:
        """503 also for a client that is cut off, as one of many may be."""
        try:
            return scene.post(file).status_code
        except httpx.TransportError:
            return 503


class ClientGone(Fault):
    """A client breaks off in the midst of its file."""

    name = "client gone in mid-upload"

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        file = scene.file(width=300)
        head, body = _request(stack, file)
        before = stack.incoming()
        client = _connection(stack)
        client.sendall(head + body[: len(body) // 2])
        until(lambda: self._come(scene, before) > 0, 10, "half of the file has come")
        scene.strike("the connection was reset with half of a file written")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        until(lambda: self._come(scene, before) <= len(file.content) // 4, 10, "nothing is left of it")
        assert stack.rows("SELECT 1 FROM intake.batches WHERE file_hash = %s", file.file_hash) == []
        scene.upload(file)

    def _come(self, scene: Scene, before: set[Path]) -> int:
        """The bytes of the largest file on its way that was not there before; others send small ones."""
        largest = 0
        for path in scene.stack.incoming() - before:
            with contextlib.suppress(FileNotFoundError):
                largest = max(largest, path.stat().st_size)
        return largest


class BlobSpoilt(Fault):
    """The stored file is gone, or is another: the batch fails, and is completed once the file was uploaded again."""

    strikes_all = True

    def __init__(self, name: str, *, missing: bool) -> None:
        self.name = name
        self._missing = missing

    def inject(self, scene: Scene) -> None:
        stack, file = scene.stack, scene.file()
        with stack.workers_still():
            batch_id = scene.upload(file)
            (blob,) = stack.blob_disk.folder.rglob(file.file_hash)
            scene.strike()
            if self._missing:
                blob.unlink()
            else:
                octets = bytearray(file.content)
                octets[octets.index(b"Qvornzell")] ^= 1
                blob.write_bytes(octets)
        scene.expect(batch_id, status="failed", code="INTEGRITY_ERROR")
        scene.wait(self.within)
        if scene.batch(batch_id)["rejection_code"] == "INTEGRITY_ERROR":
            scene.fired.append(f"the blob was {'missing' if self._missing else 'altered'} when it was read")
        scene.expect(batch_id, status="completed", code=None)
        again = scene.post(file)
        assert (again.status_code, again.json()["batch_id"]) == (200, batch_id)
        stack.http.post(f"/api/v1/intake/batches/{batch_id}/retry", json={}).raise_for_status()
        scene.look_again(batch_id)


class UploadBesideCollector(Fault):
    """The collector is about to remove a file that has no batch when the same bytes are uploaded: they keep their file."""

    name = "upload of what the collector removes"

    def prepare(self, scene: Scene) -> None:
        # Beside an empty database the collector removes nothing.
        scene.wait(self.within, [scene.upload()])
        self.file = scene.file()
        blob = scene.stack.blob_disk.folder / key_of(self.file.file_hash)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(self.file.content)
        long_ago = time.time() - 3 * 86_400
        os.utime(blob, (long_ago, long_ago))

    def inject(self, scene: Scene) -> None:
        stack, file_hash = scene.stack, self.file.file_hash
        ended: list[subprocess.CompletedProcess[str]] = []
        stack.order(Point.COLLECTING, file_hash)
        collector = threading.Thread(target=lambda: ended.append(stack.command("collect", "--json")))
        collector.start()
        stack.held(Point.COLLECTING, file_hash)
        sender = threading.Thread(target=scene.post, args=(self.file,))
        sender.start()
        scene.strike()
        # Long enough for an upload that does not wait for the collector to be ingested before its file goes.
        sender.join(1)
        stack.let_go(Point.COLLECTING, file_hash)
        for thread in (sender, collector):
            thread.join(30)
        (done,) = ended
        assert done.returncode == 0, done.stderr
        removed = [found["key"] for found in json.loads(done.stdout)["found"]]
        if key_of(file_hash) in removed:
            scene.fired.append("the collector removed the file beside its upload")

    def outcome(self, scene: Scene) -> None:
        blob = scene.stack.blob_disk.folder / key_of(self.file.file_hash)
        assert blob.exists(), "the file of an accepted upload is gone"
        assert blob.read_bytes() == self.file.content


def _connection(stack: Stack) -> socket.socket:
    parts = urlsplit(stack.info["web"])
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=10)


def _request(stack: Stack, file: KnownFile) -> tuple[bytes, bytes]:
    """An upload as its head and its body."""
    request = httpx.Request(
        "POST",
        stack.info["web"] + "/api/v1/intake/upload",
        headers=dict(stack.http.headers),
        files={"file": (file.name, file.content)},
    )
    body = request.read()
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join(["POST /api/v1/intake/upload HTTP/1.1", *lines, "", ""]).encode(), body


def _answer_of(client: socket.socket) -> bytes:
    """What has come so far."""
    client.setblocking(False)
    with contextlib.suppress(OSError):
        return client.recv(100)
    return b""

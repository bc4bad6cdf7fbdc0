"""How Celery is set, and what its messages hold: ids, never a cell of a row."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from app import intake
from app.batch import PRIORITIES, State
from app.settings import Settings, SettingsError
from tasks import process
from tasks.app import QUEUES, WATCH_QUEUE, configure
from tasks.hints import Hinter, Publisher
from tests.conftest import Sender
from tests.factories import csv_bytes, judgment_cells
from tests.tasks.conftest import Queues


class TestConfiguration:
    def test_it_speaks_json_only_and_keeps_no_results(self, celery: Celery) -> None:
        conf = celery.conf
        assert list(conf.accept_content) == ["json"]
        assert {conf.task_serializer, conf.event_serializer, conf.result_serializer} == {"json"}
        assert conf.result_backend is None
        assert conf.task_ignore_result is True

    def test_a_task_is_acknowledged_when_it_is_done_and_none_is_fetched_ahead(self, celery: Celery) -> None:
        assert celery.conf.task_acks_late is True
        assert celery.conf.worker_prefetch_multiplier == 1

    def test_it_never_gives_the_broker_up_and_never_waits_for_it_for_long(self, celery: Celery) -> None:
        options = celery.conf.broker_transport_options
        assert celery.conf.broker_connection_max_retries is None
        assert celery.conf.broker_connection_retry_on_startup is True
        assert 0 < options["socket_timeout"] <= 5
        assert 0 < options["socket_connect_timeout"] <= 5
        assert celery.conf.task_publish_retry is False

    def test_a_message_becomes_visible_again_long_after_its_lease(self, celery: Celery, settings: Settings) -> None:
        assert celery.conf.broker_transport_options["visibility_timeout"] > 100 * settings.lease_seconds

    def test_priorities_have_queues_of_their_own_and_so_has_the_watch(self, celery: Celery) -> None:
        assert [queue.name for queue in celery.conf.task_queues] == list(QUEUES) == ["watch", "high", "normal", "low"]
        assert set(QUEUES) == {*PRIORITIES, WATCH_QUEUE}
        assert celery.conf.broker_transport_options["queue_order_strategy"] == "priority"
        assert celery.conf.task_create_missing_queues is False

    def test_a_lost_connection_cancels_no_batch(self, celery: Celery) -> None:
        """The fence makes a second delivery harmless; an end in mid-batch would cost the work."""
        assert not celery.conf.worker_cancel_long_running_tasks_on_connection_loss

    def test_children_are_recycled_by_memory_and_shutdown_is_soft(self, celery: Celery, settings: Settings) -> None:
        assert celery.conf.worker_max_memory_per_child == settings.worker_memory_kib
        assert celery.conf.worker_soft_shutdown_timeout > 0

    def test_beat_is_the_single_one_and_what_it_sends_expires(self, celery: Celery) -> None:
        assert celery.conf.beat_scheduler == "tasks.schedule:SingleScheduler"
        for entry in celery.conf.beat_schedule.values():
            assert entry["options"]["queue"] == WATCH_QUEUE
            assert entry["options"]["expires"] <= entry["schedule"]

    def test_without_a_broker_it_says_which_setting_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="REDIS_URL"):
            configure(Settings(home=tmp_path))

    def test_a_process_that_no_root_has_begun_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "_settings", None)
        with pytest.raises(RuntimeError, match="composition root"):
            process.settings()


@pytest.mark.parametrize("module", ["tasks.app", "tasks.ingest", "tasks.hints", "tasks.reconciler", "tasks.schedule"])
def test_importing_it_needs_no_settings_and_no_server(module: str, tmp_path: Path) -> None:
    code = f"import {module}; from tasks.app import app; assert app.conf.broker_url is None, app.conf.broker_url"
    env = {"PATH": os.defpath, "DRAGONFLY_HOME": str(tmp_path / "none"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


class TestMessages:
    @pytest.mark.parametrize("priority", PRIORITIES)
    def test_a_hint_is_an_id_in_the_queue_of_its_priority(self, celery: Celery, queues: Queues, priority: str) -> None:
        batch_id = uuid4()
        assert Publisher(celery).publish(batch_id, priority)
        (message,) = queues.raw(priority)
        (body,) = queues.bodies(priority)
        assert body == [[str(batch_id)], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        assert message["headers"]["task"] == "dragonfly.ingest"
        assert message["headers"]["argsrepr"] == f"['{batch_id}']"
        assert message["content-type"] == "application/json"

    def test_a_queue_that_does_not_exist_is_not_made(self, celery: Celery, queues: Queues) -> None:
        assert not Publisher(celery).publish(uuid4(), "urgent")
        assert queues.raw("urgent") == []

    def test_no_cell_of_a_row_and_no_file_name_is_in_any_message(
        self, celery: Celery, queues: Queues, send: Sender, hinter_of: Callable[..., Hinter]
    ) -> None:
        rows = [judgment_cells(defendant_name="Quillfeather", case_number=f"ZANZIBAR-{number}") for number in range(9)]
        rows[2]["judgment_amount"] = "Quillfeather"
        batch = send(csv_bytes(rows), filename="Quillfeather.csv", error_threshold_percent=50)
        said: list[bytes] = []
        listening = threading.Event()

        def listen() -> None:
            with queues.client.monitor() as monitor:
                listening.set()
                for command in monitor.listen():
                    said.append(str(command).encode())
                    if "the-end" in command["command"]:
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        assert listening.wait(10)
        hinter_of(celery).enqueue(batch.id, "normal")
        assert celery.tasks["dragonfly.ingest"].apply(args=[str(batch.id)]).successful()
        with celery.connection_for_write() as connection:
            celery.events.Dispatcher(connection, hostname="tests").send("task-succeeded", uuid=str(batch.id))
        deadline = time.monotonic() + 20
        while not queues.raw("normal"):
            assert time.monotonic() < deadline
        queues.client.ping()
        queues.client.get("the-end")
        listener.join(10)
        everything = b"\n".join(said) + queues.everything()
        assert str(batch.id).encode() in everything
        for word in (b"Quillfeather", b"ZANZIBAR", b"case_number"):
            assert word not in everything

    def test_the_task_is_one_attempt_and_a_second_delivery_does_nothing(
        self, celery: Celery, send: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = send(csv_bytes([judgment_cells()]))
        ends: list[State | None] = []
        ingest = intake.ingest
        monkeypatch.setattr(intake, "ingest", lambda *args: ends.append(ingest(*args)))
        for _ in range(2):
            assert celery.tasks["dragonfly.ingest"].apply(args=[str(batch.id)]).successful()
        assert ends == [State.COMPLETED, None]


def test_kombus_own_errors_are_what_publish_answers_for(celery: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OperationalError("OOM command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(celery, "send_task", refuse)
    assert not Publisher(celery).publish(uuid4(), "normal")

"""Each check: what raises it, what it says, what does not raise it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.settings import Limit, Settings
from monitoring.checks import CHECKS
from monitoring.discord import Webhook
from monitoring.report import Finding, Level
from monitoring.sentinel import Sentinel
from tests.monitoring.conftest import Find, Left

HEALTHY, WARNING, CRITICAL = Level.HEALTHY, Level.WARNING, Level.CRITICAL


def said(finding: Finding) -> tuple[Level, str]:
    return finding.level, finding.message


def test_these_are_the_checks_in_the_order_of_the_report() -> None:
    assert list(CHECKS) == [
        "database",
        "stuck_batches",
        "error_spike",
        "schema_cache",
        "ledger",
        "backlog",
        "workers",
        "beat",
        "broker",
        "webhook",
        "disk_space",
        "duplicate_rate",
    ]


@pytest.mark.parametrize("check", sorted(set(CHECKS) - {"workers", "beat", "disk_space"}))
def test_an_empty_pipeline_is_healthy(find: Find, check: str) -> None:
    assert find(check).level is HEALTHY


class TestStuckBatches:
    def test_the_message_names_the_figure_the_threshold_and_the_states(self, left: Left, find: Find) -> None:
        ids = [left.batch("validating", since_minutes=minutes) for minutes in (30, 11)]
        ids.append(left.batch("inserting", since_minutes=12))
        found = find("stuck_batches")
        assert said(found) == (CRITICAL, "3 batches stuck > 10m: validating(2), inserting(1)")
        assert found.details["batch_ids"] == [str(batch_id) for batch_id in ids]
        assert 1_795 <= found.details["oldest_seconds"] <= 1_830

    def test_one_is_a_batch(self, left: Left, find: Find) -> None:
        left.batch("staging", since_minutes=10.2)
        assert said(find("stuck_batches")) == (CRITICAL, "1 batch stuck > 10m: staging(1)")

    def test_a_state_entered_lately_is_not_stuck_however_old_the_batch(self, left: Left, find: Find) -> None:
        batch_id = left.batch("validating", since_minutes=9.8)
        left.do("UPDATE intake.batches SET created_at = now() - interval '2 days' WHERE id = :id", id=batch_id)
        assert said(find("stuck_batches")) == (HEALTHY, "No batch stuck > 10m")

    @pytest.mark.parametrize("status", ["uploaded", "awaiting_approval", "completed", "failed", "cancelled"])
    def test_no_other_state_is_stuck(self, left: Left, find: Find, status: str) -> None:
        left.batch(status, since_minutes=600)
        assert find("stuck_batches").level is HEALTHY

    def test_the_threshold_is_a_setting(self, left: Left, find: Find) -> None:
        left.batch("inserting", since_minutes=31)
        assert find("stuck_batches", sentinel_stuck_minutes=32).level is HEALTHY
        assert find("stuck_batches", sentinel_stuck_minutes=30).message == "1 batch stuck > 30m: inserting(1)"


class TestErrorSpike:
    def read(self, left: Left, total: int, invalid: int, **overrides: Any) -> None:
        left.batch(row_count_total=total, row_count_valid=total - invalid, row_count_invalid=invalid, **overrides)

    def test_the_message_names_the_rate_and_the_threshold(self, left: Left, find: Find) -> None:
        self.read(left, 700, 200)
        self.read(left, 300, 14, status="failed", since_minutes=59)
        found = find("error_spike")
        assert said(found) == (WARNING, "Error rate 21.4% > 15% threshold")
        assert found.details["rows"] == 1_000

    def test_exactly_the_threshold_is_healthy(self, left: Left, find: Find) -> None:
        self.read(left, 1_000, 150)
        assert said(find("error_spike")) == (HEALTHY, "Error rate 15.0% <= 15% threshold")

    def test_a_breach_by_a_hair_is_shown_as_one(self, left: Left, find: Find) -> None:
        self.read(left, 100_000, 15_001)
        assert find("error_spike").message == "Error rate 15.001% > 15% threshold"

    def test_the_window_is_the_last_60_minutes_not_the_clock_hour(self, left: Left, find: Find) -> None:
        self.read(left, 100, 90, since_minutes=61)
        assert said(find("error_spike")) == (HEALTHY, "No row in the last 60m")
        self.read(left, 100, 90, since_minutes=59)
        assert find("error_spike").level is WARNING

    def test_a_source_with_its_own_limit_is_judged_by_it_alone(self, left: Left, find: Find) -> None:
        limit = Limit(15, (("foil", 30), ("jbi", 5)))
        self.read(left, 1_000, 290, source="foil")
        self.read(left, 1_000, 100, source="simplicity")
        assert find("error_spike", sentinel_error_percent=limit).level is HEALTHY
        self.read(left, 1_000, 60, source="jbi")
        self.read(left, 1_000, 330, source="foil")
        found = find("error_spike", sentinel_error_percent=limit)
        assert said(found) == (
            WARNING,
            "Error rate of foil 31.0% > 30% threshold; Error rate of jbi 6.0% > 5% threshold",
        )

    @hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        batches=st.lists(
            st.tuples(
                st.integers(1, 500),
                st.floats(0, 1),
                st.sampled_from(["completed", "failed"]),
                st.floats(0, 120).filter(lambda minutes: abs(minutes - 60) > 1),
            ),
            max_size=8,
        )
    )
    def test_the_rate_is_that_of_an_independent_count(
        self, left: Left, find: Find, batches: list[tuple[int, float, str, float]]
    ) -> None:
        left.do("DELETE FROM intake.batches")
        total = invalid = 0
        for rows, share, status, minutes in batches:
            wrong = int(rows * share)
            self.read(left, rows, wrong, status=status, since_minutes=minutes)
            if minutes < 60:
                total, invalid = total + rows, invalid + wrong
        found = find("error_spike")
        assert found.details["rows"] == total
        assert found.details["rates"]["all"] == pytest.approx(100 * invalid / total if total else 0, abs=0.006)
        assert (found.level is WARNING) == (invalid * 100 > 15 * total)


class TestLedger:
    def test_books_that_balance(self, left: Left, find: Find) -> None:
        left.counted(inserted=3, invalid=2, duplicate=1)
        left.batch("failed", row_count_total=0)
        assert said(find("ledger")) == (HEALTHY, "The books of 2 batches balance")

    @pytest.mark.parametrize(
        ("theft", "told"),
        [
            ("DELETE FROM public.judgments WHERE row_index = 1", "judgments stored 2, inserted 3"),
            ("DELETE FROM intake.row_errors WHERE row_index = 1001", "row errors stored 1, invalid 2"),
            ("DELETE FROM intake.row_conflicts", "duplicates stored 0, duplicate 1"),
            ("UPDATE intake.batches SET row_count_total = 7", "total 7 is not valid 4 + invalid 2"),
            (
                "UPDATE intake.batches SET row_count_valid = 5, row_count_total = 7",
                "valid 5 is not inserted 3 + duplicate 1",
            ),
        ],
    )
    @pytest.mark.parametrize("age", [1, 60 * 24 * 400])
    def test_each_account_is_watched_in_old_batches_too(
        self, left: Left, find: Find, theft: str, told: str, age: float
    ) -> None:
        batch_id = left.counted(inserted=3, invalid=2, duplicate=1, since_minutes=age)
        left.do(theft)
        found = find("ledger")
        assert said(found) == (CRITICAL, f"The books of 1 batch do not balance (0 allowed): {told}")
        assert found.details["batch_ids"] == [str(batch_id)]

    def test_a_failed_batch_keeps_its_row_errors(self, left: Left, find: Find) -> None:
        batch_id = left.batch("failed", row_count_total=3, row_count_valid=1, row_count_invalid=2)
        left.rows(batch_id, errors=2)
        assert find("ledger").level is HEALTHY
        left.do("DELETE FROM intake.row_errors WHERE row_index = 1001")
        assert find("ledger").level is CRITICAL


class TestBacklog:
    def test_the_message_names_the_count_and_the_age(self, left: Left, find: Find) -> None:
        left.batch("uploaded", since_minutes=25)
        left.batch("uploaded", since_minutes=11)
        left.batch("uploaded", since_minutes=9)
        assert said(find("backlog")) == (WARNING, "2 batches waiting > 10m, the oldest for 25m")

    def test_only_what_is_uploaded_waits(self, left: Left, find: Find) -> None:
        left.batch("validating", since_minutes=60)
        left.batch("failed", since_minutes=60)
        assert said(find("backlog")) == (HEALTHY, "No batch waits > 10m")

    @pytest.mark.parametrize("status", ["uploaded", "staging", "validating"])
    def test_a_batch_that_is_sent_back_again_and_again_waits_since_its_first_attempt(
        self, left: Left, find: Find, status: str
    ) -> None:
        batch_id = left.batch(status, since_minutes=0.2, setbacks=9)
        left.do("UPDATE intake.batches SET started_at = now() - interval '31 minutes' WHERE id = :id", id=batch_id)
        assert said(find("backlog")) == (WARNING, "1 batch waiting > 10m, the oldest for 31m")


class TestWorkers:
    def test_all_alive(self, left: Left, find: Find) -> None:
        left.all_well()
        assert said(find("workers")) == (HEALTHY, "1 worker alive, every queue's canary comes back")

    def test_a_worker_that_fell_silent_is_dead(self, left: Left, find: Find) -> None:
        left.all_well()
        left.worker("host/2-bb/", silent_seconds=75)
        assert said(find("workers")) == (CRITICAL, "1 of 2 workers dead: silent for 75s > 30s")
        assert find("workers").details["dead"][0]["worker"] == "host/2-bb/"

    def test_one_that_was_started_in_its_place_makes_up_for_it(self, left: Left, find: Find) -> None:
        left.all_well()
        left.worker("host/2-bb/", silent_seconds=300)
        left.worker("host/3-cc/", age_seconds=290)
        assert find("workers").level is HEALTHY

    def test_one_heir_makes_up_for_one_only(self, left: Left, find: Find) -> None:
        left.all_well()
        for number in (2, 3):
            left.worker(f"host/{number}-bb/", silent_seconds=300)
        left.worker("host/4-cc/", age_seconds=290)
        assert find("workers").message.startswith("1 of 3 workers dead")

    def test_another_hosts_worker_is_no_heir(self, left: Left, find: Find) -> None:
        left.all_well()
        left.worker("gone/2-bb/", host="gone", silent_seconds=300)
        left.worker("host/3-cc/", age_seconds=290)
        assert find("workers").level is CRITICAL

    def test_without_any_worker(self, left: Left, find: Find) -> None:
        left.first_run()
        assert said(find("workers")) == (CRITICAL, "0 workers alive, at least 1 expected")

    def test_the_first_worker_is_waited_for_two_intervals(self, left: Left, find: Find) -> None:
        now = time.monotonic()
        assert said(find("workers", begun=now - 119)) == (HEALTHY, "Waiting for the first worker")
        assert find("workers", begun=now - 121).level is CRITICAL

    def test_what_an_earlier_stack_left_is_no_death_while_this_one_starts(self, left: Left, find: Find) -> None:
        left.worker(silent_seconds=3_000)
        assert find("workers", begun=time.monotonic() - 5).details["waiting"]
        assert find("workers", begun=time.monotonic() - 500).level is CRITICAL

    def test_a_worker_that_dies_soon_after_the_start_is_no_wait(self, left: Left, find: Find) -> None:
        left.worker(silent_seconds=40, age_seconds=80)
        assert find("workers", begun=time.monotonic() - 100).level is CRITICAL

    def test_a_canary_that_does_not_come_back_is_told_with_its_queue(self, left: Left, find: Find) -> None:
        left.all_well()
        left.canary("slow", out_seconds=200)
        message = "No canary from 1 queue (slow): the oldest is out for 200s > 180s"
        assert said(find("workers")) == (CRITICAL, message)

    def test_where_every_hand_is_busy_a_canary_may_be_late(self, left: Left, find: Find) -> None:
        left.all_well()
        left.canary("slow", out_seconds=200)
        for child in (5, 6):
            left.batch(
                "validating", lease_owner=f"host/1-aa/{child}", lease_until=_in_a_minute(), source="manual", fence=1
            )
        assert said(find("workers")) == (HEALTHY, "1 worker alive; canaries are not judged, all are busy")

    def test_without_a_broker_no_canary_is_missed(self, left: Left, find: Find) -> None:
        left.first_run()
        left.worker(broker_silent_seconds=None)
        assert said(find("workers")) == (HEALTHY, "1 worker alive; canaries are not judged, the broker is silent")

    def test_canaries_that_were_never_sent_are_missed_after_the_start(self, left: Left, find: Find) -> None:
        left.worker()
        now = time.monotonic()
        assert said(find("workers", begun=now - 10)) == (HEALTHY, "1 worker alive; waiting for the first canary")
        assert find("workers", begun=now - 130).message == "1 worker alive, but no canary goes round the queues"


class TestAfterTheDatabaseWasAway:
    """Nobody could give it a sign of life: who is silent when it is back has the threshold's time to speak."""

    @pytest.fixture
    def watching(self, settings: Settings, left: Left) -> Sentinel:
        """A sentinel whose last run found no database."""
        left.first_run()
        watching = Sentinel(
            settings=dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/nowhere"),
            interval_seconds=60,
        )
        assert watching.run(["database"]).findings[0].level is CRITICAL
        watching.settings = settings
        return watching

    @staticmethod
    def later(watching: Sentinel, seconds: float) -> None:
        """As if the database had answered for so long."""
        watching.run(["database"])
        assert watching._back_at is not None
        watching._back_at -= dt.timedelta(seconds=seconds)

    def test_no_worker_is_dead_until_it_could_speak(self, left: Left, watching: Sentinel) -> None:
        left.worker("host/1-aa/", silent_seconds=300)
        left.worker("host/2-bb/")
        (finding,) = watching.run(["workers"]).findings
        assert said(finding) == (HEALTHY, "Waiting for 1 of 2 workers: the database was away")
        self.later(watching, 31)
        assert watching.run(["workers"]).findings[0].level is CRITICAL

    def test_beat_is_not_dead_until_it_could_speak(self, left: Left, watching: Sentinel) -> None:
        left.heartbeat("beat", silent_seconds=300)
        (finding,) = watching.run(["beat"]).findings
        assert said(finding) == (HEALTHY, "Waiting for beat: the database was away")
        self.later(watching, 61)
        assert watching.run(["beat"]).findings[0].level is CRITICAL

    def test_no_canary_is_lost_whose_return_could_not_be_noted(self, left: Left, watching: Sentinel) -> None:
        left.worker()
        left.canary("low", out_seconds=300)
        (finding,) = watching.run(["workers"]).findings
        assert said(finding) == (HEALTHY, "1 worker alive; waiting for canaries: the database was away")
        self.later(watching, 181)
        assert watching.run(["workers"]).findings[0].level is CRITICAL

    @pytest.mark.parametrize("check", ["workers", "beat"])
    def test_an_incident_from_before_is_not_told_to_be_over(self, left: Left, watching: Sentinel, check: str) -> None:
        left.worker(silent_seconds=300)
        left.heartbeat("beat", silent_seconds=300)
        left.do(
            "INSERT INTO ops.sentinel_runs (started_at, duration_ms, environment, host, overall_status, findings)"
            " VALUES (now(), 1, 'dev', 'host', 'critical', CAST(:findings AS jsonb))",
            findings=json.dumps([{"check": check, "level": "CRITICAL", "message": "dead", "details": {}}]),
        )
        assert watching.run([check]).findings[0].level is CRITICAL


class TestBeat:
    def test_alive(self, left: Left, find: Find) -> None:
        left.heartbeat("beat", silent_seconds=4)
        assert said(find("beat")) == (HEALTHY, "Beat was seen 4s ago")

    def test_silent(self, left: Left, find: Find) -> None:
        left.first_run()
        left.heartbeat("beat", silent_seconds=95)
        assert said(find("beat")) == (CRITICAL, "Beat silent for 95s > 60s")

    def test_never_seen(self, left: Left, find: Find) -> None:
        now = time.monotonic()
        assert said(find("beat", begun=now - 100)) == (HEALTHY, "Waiting for beat's first sign of life")
        expected = (CRITICAL, "Beat has never been seen, a sign within 60s expected")
        assert said(find("beat", begun=now - 130)) == expected

    def test_one_that_died_since_the_start_is_not_waited_for(self, left: Left, find: Find) -> None:
        left.heartbeat("beat", silent_seconds=70)
        assert find("beat", begun=time.monotonic() - 60).details["waiting"]
        assert find("beat", begun=time.monotonic() - 90).level is CRITICAL


class TestDiskSpace:
    @pytest.mark.parametrize(("free", "level"), [(10.0, HEALTHY), (9.9, WARNING), (5.0, WARNING), (4.9, CRITICAL)])
    def test_the_fullest_disk_of_a_living_worker_counts(
        self, left: Left, find: Find, free: float, level: Level
    ) -> None:
        left.worker(disk=90)
        left.worker("other/2-bb/", host="other", disk=free)
        left.worker("gone/3-cc/", host="gone", disk=1, silent_seconds=100)
        found = find("disk_space")
        assert found.level is level
        if level is not HEALTHY:
            assert found.message == f"{free}% of the disk free < 10% on other"

    def test_without_a_worker_this_machines_own_is_measured(self, left: Left, find: Find) -> None:
        found = find("disk_space")
        assert 0 < found.details["free_percent"]["this machine"] <= 100


class TestDuplicateRate:
    def test_the_message_names_the_rate_and_the_threshold(self, left: Left, find: Find) -> None:
        left.batch(row_count_total=100, row_count_valid=90, row_count_invalid=10, row_count_duplicate=54)
        assert said(find("duplicate_rate")) == (WARNING, "Duplicate rate 60.0% > 50% threshold")

    def test_half_is_healthy(self, left: Left, find: Find) -> None:
        left.batch(row_count_total=100, row_count_valid=100, row_count_duplicate=50)
        assert said(find("duplicate_rate")) == (HEALTHY, "Duplicate rate 50.0% <= 50% threshold")


class TestWebhook:
    URL = "https://discord.com/api/webhooks/1/secret"

    def wait(self, left: Left, minutes: float, **overrides: Any) -> None:
        values = {"webhook": None, "problem": None, "attempts": 0, "failed": False, **overrides}
        left.do(
            """
            INSERT INTO ops.alerts (dedupe_key, kind, check_name, level, environment, message, happened_at, created_at,
                webhook, problem, attempts, failed_at)
            VALUES (gen_random_uuid()::text, 'raised', 'beat', 'CRITICAL', 'dev', 'x', now(),
                clock_timestamp() - make_interval(secs => :age), :webhook, :problem, :attempts,
                CASE WHEN :failed THEN clock_timestamp() END)
            """,
            age=minutes * 60,
            **values,
        )

    def test_without_one_it_is_skipped_and_says_so(self, find: Find) -> None:
        assert said(find("webhook")) == (HEALTHY, "Skipped: DISCORD_WEBHOOK_URL is not set")

    def test_what_waits_longer_than_the_threshold_is_told(self, left: Left, find: Find) -> None:
        left.heartbeat("webhook", silent_seconds=30)
        self.wait(left, 9)
        assert said(find("webhook", discord_webhook_url=self.URL)) == (HEALTHY, "1 alert to be sent")
        self.wait(left, 25)
        message = "2 alerts cannot be sent, the oldest for 25m > 10m"
        assert said(find("webhook", discord_webhook_url=self.URL)) == (CRITICAL, message)

    def test_what_waited_before_there_was_one_is_not_late(self, left: Left, find: Find) -> None:
        self.wait(left, 25)
        assert said(find("webhook", discord_webhook_url=self.URL)) == (HEALTHY, "1 alert to be sent")
        self.wait(left, 12, attempts=1, webhook="another", problem="answered 500")
        message = "2 alerts cannot be sent, the oldest for 12m > 10m"
        assert said(find("webhook", discord_webhook_url=self.URL)) == (CRITICAL, message)

    def test_one_that_was_set_anew_has_its_time_since_the_start(self, left: Left, find: Find) -> None:
        left.heartbeat("webhook", silent_seconds=3_000)
        self.wait(left, 25)
        found = find("webhook", begun=time.monotonic() - 60, discord_webhook_url=self.URL)
        assert said(found) == (HEALTHY, "1 alert to be sent")
        assert find("webhook", begun=time.monotonic() - 660, discord_webhook_url=self.URL).level is CRITICAL

    @pytest.mark.parametrize(
        ("problem", "message"),
        [
            ("dead webhook: it answers 404", "The webhook is dead (it answers 404): 1 alert refused, 0 allowed"),
            ("it answers 400", "The webhook refuses what it is sent (it answers 400): 1 alert refused, 0 allowed"),
        ],
    )
    def test_a_refusal_is_told(self, left: Left, find: Find, problem: str, message: str) -> None:
        fingerprint = Webhook.from_url(self.URL, ["discord.com"], "prod").fingerprint
        self.wait(left, 1, webhook=fingerprint, problem=problem, attempts=1, failed=True)
        found = find("webhook", discord_webhook_url=self.URL)
        assert found.level is CRITICAL
        assert found.message.startswith(message)
        assert "secret" not in str(found)

    @pytest.mark.parametrize("url", ["http://discord.com/api/webhooks/1/secret", "https://evil.test/secret"])
    def test_an_address_to_which_nothing_may_go_cannot_be_checked(self, find: Find, url: str) -> None:
        found = find("webhook", discord_webhook_url=url)
        assert found.level is CRITICAL
        assert found.message.startswith("Cannot run: DISCORD_WEBHOOK_URL ")
        assert "secret" not in str(found)


class TestBroker:
    def test_it_answers(self, find: Find, broker: Any) -> None:
        import redis

        with redis.Redis.from_url(broker.url) as client:
            client.delete("high", "normal", "low")
            client.lpush("low", "x")
            assert said(find("broker", broker=client)) == (HEALTHY, "The broker answers, messages waiting: 1")
            client.delete("low")

    def test_it_does_not(self, find: Find) -> None:
        import redis

        from app.local.valkey import free_port

        client = redis.Redis(port=free_port(), socket_timeout=1, socket_connect_timeout=1)
        assert said(find("broker", broker=client)) == (CRITICAL, "The broker does not answer: ConnectionError")


def _in_a_minute() -> Any:
    import datetime as dt

    return dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)

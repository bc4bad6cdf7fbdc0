"""Liveness, readiness and the numbers for Prometheus."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from app.api import create_app
from app.api.health import Remembered
from app.settings import Settings
from app.store.blobs import Blobs, StorageError

KEY = {"Authorization": "Bearer the-key-of-these-tests-0123456789"}


def test_ready_when_database_and_storage_are_up(anonymous: FlaskClient) -> None:
    assert anonymous.get("/readyz").get_json() == {
        "status": "ready",
        "database": "up",
        "storage": "up",
        "broker": "not watched",
    }


@pytest.mark.parametrize(("answers", "shown"), [(True, "up"), (False, "down")])
def test_the_broker_is_reported_and_not_required(
    settings: Settings, engine: Engine, blobs: Blobs, answers: bool, shown: str
) -> None:
    app = create_app(settings, lambda *_: None, engine=engine, blobs=blobs, broker_state=lambda: answers)
    response = app.test_client().get("/readyz")
    assert (response.status_code, response.get_json()["broker"]) == (200, shown)


def test_not_ready_without_storage(anonymous: FlaskClient, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise StorageError("could not reach the folder")

    monkeypatch.setattr(type(blobs), "check", refuse)
    response = anonymous.get("/readyz")
    document = response.get_json()
    assert (response.status_code, document["code"], document["storage"]) == (503, "STORAGE_UNAVAILABLE", "down")
    assert document["database"] == "up"


def test_a_probe_is_not_asked_again_at_once() -> None:
    asked = []
    remembered = Remembered(lambda: str(asked.append(1)), seconds=60)
    assert remembered() == remembered()
    assert len(asked) == 1


def test_requests_are_counted_by_route_and_never_by_what_a_client_makes_up(client: FlaskClient, stored: Any) -> None:
    batch = stored.batch(filename="Ada Marlow.csv")
    client.get(f"/api/v1/intake/batches/{batch}")
    client.get("/made/up/by/a/client")
    client.open("/healthz", method="PROPFIND")
    exposed = client.get("/metrics").get_data(as_text=True)
    samples = {
        tuple(sample.labels.get(name) for name in ("method", "route", "status")): sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
        if sample.name == "dragonfly_http_requests_total"
    }
    assert samples[("GET", "/api/v1/intake/batches/<id:batch_id>", "200")] == 1
    assert samples[("GET", "none", "404")] == 1
    assert samples[("other", "none", "405")] == 1
    assert "process_resident_memory_bytes" in exposed
    for personal in (str(batch), "made/up", "PROPFIND", "Ada"):
        assert personal not in exposed

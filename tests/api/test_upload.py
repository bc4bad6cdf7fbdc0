"""Handing in a file: what is taken, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from app.errors import CATALOGUE
from app.settings import Settings
from app.store.blobs import Incoming, StorageError, StorageFullError

CSV = b"Case Number,Defendant,Amount\r\nC-1,Ada Marlow,10.00\r\n"
UPLOAD = "/api/v1/intake/upload"


def send(client: FlaskClient, content: bytes = CSV, filename: str | None = "export.csv", **fields: str) -> TestResponse:
    texts = [part(name, value.encode()) for name, value in fields.items()]
    return post_raw(client, multipart(*texts, part("file", content, filename=filename)))


def files_in(settings: Settings) -> list[Path]:
    return [path for path in (settings.home / "blobs").rglob("*") if path.is_file()]


NothingIsKept = Callable[[], None]


@pytest.fixture
def nothing_is_kept(engine: Engine, settings: Settings) -> NothingIsKept:
    """Asserts that a refusal left neither a file nor a batch."""

    def check() -> None:
        assert files_in(settings) == []
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM intake.batches")) == 0

    return check


def test_a_new_file_is_answered_202_with_its_batch_and_place(client: FlaskClient, sent: Any) -> None:
    response = send(client)
    document = response.get_json()
    assert response.status_code == 202
    assert document["file_hash"] == hashlib.sha256(CSV).hexdigest()
    assert document["filename"] == "export.csv"
    assert document["status"] == "uploaded"
    assert document["is_duplicate"] is False
    assert response.headers["Location"] == f"/api/v1/intake/batches/{document['batch_id']}"
    assert sent.batches == [(UUID(document["batch_id"]), "normal")]


def test_the_stored_file_is_the_sent_file_byte_for_byte(client: FlaskClient, settings: Settings) -> None:
    content = bytes(range(256)) * 3000 + b"\r\n--boundary\r\n\r\n--"
    send(client, content)
    assert [path.read_bytes() for path in files_in(settings)] == [content]


def test_the_fields_of_the_form_reach_the_batch(client: FlaskClient, sent: Any) -> None:
    batch_id = send(client, source="jbi", error_threshold_percent="25", priority="high").get_json()["batch_id"]
    batch = client.get(f"/api/v1/intake/batches/{batch_id}").get_json()
    assert (batch["source"], batch["error_threshold_percent"], batch["priority"]) == ("jbi", 25, "high")
    assert batch["created_by"] == "tests"
    assert sent.batches == [(UUID(batch_id), "high")]


def test_fields_may_come_after_the_file(client: FlaskClient) -> None:
    body = multipart(part("file", CSV, filename="a.csv"), part("source", b"foil"))
    batch_id = post_raw(client, body).get_json()["batch_id"]
    assert client.get(f"/api/v1/intake/batches/{batch_id}").get_json()["source"] == "foil"


def test_the_same_bytes_again_are_answered_200_with_the_first_batch(client: FlaskClient, sent: Any) -> None:
    first = send(client).get_json()
    again = send(client, filename="other.csv")
    assert again.status_code == 200
    assert again.get_json()["is_duplicate"] is True
    assert again.get_json()["batch_id"] == first["batch_id"]
    assert len(sent.batches) == 1


def test_force_makes_a_new_batch_of_known_bytes(client: FlaskClient, sent: Any) -> None:
    first = send(client).get_json()
    again = send(client, force="true")
    assert again.status_code == 202
    batch = client.get(again.headers["Location"]).get_json()
    assert batch["forced"] is True
    assert batch["first_batch_id"] == first["batch_id"]
    assert len(sent.batches) == 2


def test_force_on_unknown_bytes_is_an_ordinary_upload(client: FlaskClient) -> None:
    batch = client.get(send(client, force="true").headers["Location"]).get_json()
    assert batch["forced"] is False


def test_an_empty_file_is_accepted(client: FlaskClient) -> None:
    assert send(client, b"").status_code == 202


@pytest.mark.parametrize(
    ("sent_name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\exports\\May.csv", "May.csv"),
        ("a\u202ecsv.exe", "acsv.exe"),
        ("x" * 400 + ".csv", "x" * 255),
        ("..", "upload.csv"),
        ("Año ñ.csv", "Año ñ.csv"),
    ],
)
def test_the_file_name_is_text_for_display_only(
    client: FlaskClient, settings: Settings, sent_name: str, shown: str
) -> None:
    assert send(client, filename=sent_name).get_json()["filename"] == shown
    assert [path.name for path in files_in(settings)] == [hashlib.sha256(CSV).hexdigest()]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": "carrier pigeon"}, "source"),
        ({"error_threshold_percent": "101"}, "error_threshold_percent"),
        ({"error_threshold_percent": "-1"}, "error_threshold_percent"),
        ({"error_threshold_percent": "1_0"}, "error_threshold_percent"),
        ({"error_threshold_percent": "٣"}, "error_threshold_percent"),
        ({"error_threshold_percent": ""}, "error_threshold_percent"),
        ({"force": "perhaps"}, "force"),
        ({"priority": "urgent"}, "priority"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named_and_nothing_is_kept(
    client: FlaskClient, nothing_is_kept: NothingIsKept, sent: Any, fields: dict[str, str], named: str
) -> None:
    response = send(client, **fields)
    document = response.get_json()
    assert (response.status_code, document["code"]) == (422, "INVALID_FIELD")
    assert named in document["errors"]
    assert named in document["detail"]
    nothing_is_kept()
    assert sent.batches == []


def part(name: str, content: bytes, *, filename: str | None = None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        escaped = filename.replace("\\", "\\\\").replace('"', '\\"')
        disposition += f'; filename="{escaped}"'
    return disposition.encode() + b"\r\n\r\n" + content


def multipart(*parts: bytes, end: bytes = b"--limit--\r\n") -> bytes:
    return b"".join(b"--limit\r\n" + each + b"\r\n" for each in parts) + end


def post_raw(
    client: FlaskClient, body: bytes, content_type: str = "multipart/form-data; boundary=limit"
) -> TestResponse:
    return client.post(UPLOAD, data=body, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (multipart(part("source", b"jbi")), 422, "file"),
        (multipart(part("file", CSV, filename="a"), part("file", CSV, filename="b")), 422, "found two"),
        (multipart(part("file", CSV, filename="a"), part("second", CSV, filename="b")), 422, "second"),
        (multipart(part("file", CSV)), 422, "file"),
        (multipart(part("file", b"", filename="")), 422, "No file was chosen"),
        (
            multipart(part("source", b"jbi"), part("source", b"foil"), part("file", CSV, filename="a")),
            422,
            "more than once",
        ),
        (multipart(part("file", CSV, filename="a"), end=b""), 400, "ends too early"),
        (b"nothing of the kind", 400, "ends too early"),
        (multipart(b"X-Other: 1\r\n\r\nx"), 400, "broken"),
        (multipart(b'Content-Disposition: form-data; name="\xff"\r\n\r\nx'), 400, "broken"),
        (multipart(part("source", b"x" * 400_000), part("file", CSV, filename="a")), 413, "text fields"),
        (multipart(*(part(f"f{place}", b"") for place in range(60))), 413, "text fields"),
    ],
)
def test_a_body_that_is_no_upload_is_refused_with_a_sentence(
    client: FlaskClient, nothing_is_kept: NothingIsKept, body: bytes, status: int, words: str
) -> None:
    response = post_raw(client, body)
    assert response.status_code == status
    assert words in response.get_json()["detail"]
    nothing_is_kept()


@pytest.mark.parametrize(
    "content_type", ["text/csv", "application/json", "multipart/form-data", "multipart/form-data; boundary=é", ""]
)
def test_only_multipart_is_taken(client: FlaskClient, content_type: str) -> None:
    response = post_raw(client, CSV, content_type)
    assert (response.status_code, response.get_json()["code"]) == (400, "MALFORMED_REQUEST")


def test_a_file_of_the_largest_size_is_taken_and_one_byte_more_is_not(
    client: FlaskClient, nothing_is_kept: NothingIsKept, settings: Settings
) -> None:
    refused = send(client, b"x" * (settings.max_upload_bytes + 1))
    assert (refused.status_code, refused.get_json()["code"]) == (413, "UPLOAD_TOO_LARGE")
    assert "1,000,000 bytes" in refused.get_json()["detail"]
    nothing_is_kept()
    assert send(client, b"x" * settings.max_upload_bytes).status_code == 202


def test_a_declared_length_above_the_limit_is_refused_before_a_byte_is_stored(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, blobs: Any
) -> None:
    monkeypatch.setattr(type(blobs), "incoming", lambda *_: pytest.fail("the body was read"))
    assert send(client, b"x" * 2_000_000).status_code == 413


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (StorageFullError("could not write a file: No space left on device"), "STORAGE_FULL"),
        (StorageError("could not write a file: Input/output error"), "STORAGE_UNAVAILABLE"),
    ],
)
def test_a_store_that_fails_in_mid_file_is_answered_and_nothing_is_left(
    client: FlaskClient,
    nothing_is_kept: NothingIsKept,
    monkeypatch: pytest.MonkeyPatch,
    problem: StorageError,
    code: str,
) -> None:
    def refuse(self: object, data: bytes) -> int:
        raise problem

    monkeypatch.setattr(Incoming, "write", refuse)
    response = send(client)
    assert response.get_json()["code"] == code
    assert response.status_code == CATALOGUE[code].http_status
    assert ("Retry-After" in response.headers) is (code == "STORAGE_UNAVAILABLE")
    nothing_is_kept()


def test_the_limit_of_uploads_leaves_other_calls_alone(api: Any, client: FlaskClient) -> None:
    slots = api.extensions["dragonfly"].upload_slots
    assert slots.count == 24
    held = [slots.take() for _ in range(slots.count)]
    for each in held:
        each.__enter__()
    refused = send(client)
    assert (refused.status_code, refused.get_json()["code"]) == (503, "BUSY")
    assert int(refused.headers["Retry-After"]) > 0
    assert client.get("/api/v1/intake/batches").status_code == 200
    held[0].__exit__(None, None, None)
    assert send(client).status_code == 202

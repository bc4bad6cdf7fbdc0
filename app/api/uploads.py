"""Uploads: a file comes in, is stored as it streams, and becomes a batch."""

from __future__ import annotations

import time
from typing import Any

from flask import request, url_for
from marshmallow import ValidationError

from app import intake
from app.api.auth import caller
from app.api.blueprints import Blueprint
from app.api.multipart import Form, read_form, single_values
from app.api.parts import parts
from app.api.problems import ProblemError
from app.api.schemas import ReceiptSchema, UploadDocument, UploadForm

blueprint = Blueprint("uploads", __name__, url_prefix="/api/v1/intake", description="Handing in files")
STREAMED_ENDPOINT = "uploads.upload"

_FORM = UploadForm()
_ACCEPTED, _KNOWN = 202, 200
_LOCATION = {"Location": {"description": "Where the batch is", "schema": {"type": "string"}}}


@blueprint.route("/upload", methods=["POST"])
@blueprint.response(_ACCEPTED, ReceiptSchema, headers=_LOCATION, description="A new batch")
@blueprint.alt_response(
    _KNOWN, schema=ReceiptSchema, headers=_LOCATION, description="The same bytes again: the first batch", success=True
)
@blueprint.refuses(507)
@blueprint.doc(requestBody={"required": True, "content": {"multipart/form-data": {"schema": UploadDocument}}})
def upload() -> Any:
    """Upload a file

    The file is stored and the batch made when this answers; its rows are checked afterwards. The same bytes again are
    answered with the first batch, unless force is true.
    """
    own = parts()
    began = time.time()
    with own.upload_slots.take():
        form = read_form(request, own.blobs.incoming, max_file_bytes=own.settings.max_upload_bytes)
        receipt = _receive(form)
    batch = receipt.batch
    if not receipt.is_duplicate:
        own.enqueue(batch.id, batch.priority)
    own.tell_of_upload(batch, began, is_duplicate=receipt.is_duplicate)
    location = url_for("batches.show", batch_id=str(batch.id))
    return receipt, _KNOWN if receipt.is_duplicate else _ACCEPTED, {"Location": location}


def _receive(form: Form) -> intake.Receipt:
    own = parts()
    try:
        values = _read_fields(form.fields)
        wanted = intake.Upload(filename=form.filename, created_by=caller(), **values)
        return intake.receive(own.engine, own.blobs, form.incoming, wanted)
    except BaseException:
        form.incoming.discard()
        raise


def _read_fields(fields: dict[str, list[str]]) -> dict[str, Any]:
    try:
        return dict(_FORM.load(single_values(fields)))
    except ValidationError as refusal:
        errors = dict(refusal.messages_dict)
        detail = " ".join(f"{name}: {' '.join(sentences)}" for name, sentences in errors.items())
        raise ProblemError("INVALID_FIELD", detail, errors=errors) from None

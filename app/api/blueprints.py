"""Blueprints whose routes document how they refuse, and the Api that documents them all."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar, cast

import flask_smorest
from flask import Request, Response
from flask_smorest.utils import prepare_response
from marshmallow import ValidationError
from webargs.flaskparser import FlaskParser, abort
from werkzeug.exceptions import HTTPException

from app.api import problems
from app.api.fields import IdConverter
from app.api.schemas import ProblemSchema, Strict

View = TypeVar("View", bound=Callable[..., Any])

_READING = frozenset({"GET", "HEAD"})
_DATA = "/api/v1/"
_NOTHING = Strict()
ALWAYS = (400, 401, 408, 413, 422, 429, 500, 503)
"""How any call that needs a key may be refused, whatever it asks for."""


class Parser(FlaskParser):
    """Reads requests, and refuses what webargs passes or fails at: a parameter given twice, JSON that cannot be read."""

    def load_querystring(self, req: Request, schema: Any) -> Any:
        """The query's parameters. Raises ValidationError where one that takes a single value has several."""
        found = super().load_querystring(req, schema)
        several = [name for name, values in req.args.lists() if len(values) > 1 and name not in found.multiple_keys]
        if several:
            raise ValidationError({name: ["Given more than once."] for name in several})
        return found

    def load_json(self, req: Request, schema: Any) -> Any:
        """The body's JSON, or webargs' missing where there is none. Aborts with 400."""
        try:
            return super().load_json(req, schema)
        except (ValueError, RecursionError) as problem:
            # Well-formed JSON too: it may be nested too deeply, or hold a whole number of thousands of digits.
            abort(400, exc=problem, messages={"json": ["Nested too deeply, or a number in it is too long."]})


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """A noun's routes; flask-smorest's decorators, with types. A route of the data takes only what it declares."""

    # What becomes of an unknown field is left to each schema; webargs' own default lets those of a query pass.
    ARGUMENTS_PARSER = Parser(unknown=None)

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:
        register = cast("Callable[[View], View]", super().route(rule, **options))

        def decorate(view: View) -> View:
            # A browser's session needs its CSRF token for every change.
            is_change = not _READING.issuperset(options["methods"])
            documented = self.alt_response(403, HTTPStatus.FORBIDDEN.name)(view) if is_change else view
            return register(self._closed(documented, ("query", "json") if is_change else ("query",)))

        return decorate

    def _closed(self, view: View, locations: tuple[str, ...]) -> View:
        """The view, which then refuses every field in those of the locations where it declares none."""
        known = getattr(view, "_apidoc", {})
        declared = {parameter["in"] for parameter in known.get("arguments", {}).get("parameters", ())}
        if "requestBody" in known.get("manual_doc", {}):
            # It reads its body by itself.
            declared.add("json")
        closed = [location for location in locations if location not in declared]

        @wraps(view)
        def checked(*args: Any, **values: Any) -> Any:
            for location in closed:
                self.ARGUMENTS_PARSER.parse(_NOTHING, location=location)
            return view(*args, **values)

        return cast(View, checked) if closed and (self.url_prefix or "").startswith(_DATA) else view

    def arguments(self, schema: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return cast("Callable[[Callable[..., Any]], Callable[..., Any]]", super().arguments(schema, **options))

    def response(self, status_code: int, schema: Any = None, **options: Any) -> Callable[[View], View]:
        return cast("Callable[[View], View]", super().response(status_code, schema, **options))

    def alt_response(self, status_code: int, response: str | None = None, **options: Any) -> Callable[[View], View]:
        return cast("Callable[[View], View]", super().alt_response(status_code, response, **options))

    @staticmethod
    def doc(**members: Any) -> Callable[[View], View]:
        return cast("Callable[[View], View]", flask_smorest.Blueprint.doc(**members))

    def refuses(self, *statuses: int, open_to_all: bool = False) -> Callable[[View], View]:
        """Document these refusals, and those of every call that needs a key."""

        def decorate(view: View) -> View:
            decorated = view
            for status in sorted({*statuses, *(() if open_to_all else ALWAYS)}):
                decorated = self.alt_response(status, HTTPStatus(status).name)(decorated)
            if open_to_all:
                decorated = self.doc(security=[])(decorated)
            noun = view.__module__.rsplit(".", 1)[-1]
            return self.doc(operationId=f"{noun}_{view.__name__}")(decorated)

        return decorate


class Api(flask_smorest.Api):  # type: ignore[misc]
    """The API with its OpenAPI document; every HTTPException becomes a problem document."""

    ERROR_SCHEMA = ProblemSchema

    def handle_http_exception(self, error: HTTPException) -> Response:
        return problems.from_http(error)

    def _register_responses(self) -> None:
        named = {status.name: status.phrase for status in HTTPStatus}
        for name, phrase in (*named.items(), (self.DEFAULT_ERROR_RESPONSE_NAME, "Any other refusal")):
            response = {"description": phrase, "schema": self.ERROR_SCHEMA}
            prepare_response(response, self.spec, problems.CONTENT_TYPE)
            self.spec.components.response(name, response, lazy=True)

    def document_ids(self) -> None:
        """Say in the document that an id in an address is a UUID."""
        self.register_converter(IdConverter, lambda _: {"type": "string", "format": "uuid"})

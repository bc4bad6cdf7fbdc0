"""PostgreSQL stopped, restarted, out of connections, or ending one connection: it is the truth, so work waits for it."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import httpx
import psycopg

from app.pause import Point
from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import until

SERVICE_ROLE = "service_role"


class StopDatabase(Fault):
    """A signal to the server while judgments are on their way to it; the supervisor starts it again."""

    outage = True
    within = 90.0

    def __init__(self, how: signal.Signals, name: str) -> None:
        self.name = name
        self._how = how

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(Point.COPYING)
        scene.stack.held(Point.COPYING, self.batch_id)

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        began = self._started_at(scene)
        scene.strike()
        os.kill(stack.postmaster(), self._how)
        until(lambda: self._started_at(scene) not in (None, began), 60, "the database is back")
        scene.heal()
        stack.let_go(Point.COPYING, self.batch_id)
        scene.fired.append(
            f"{self._how.name} to the server with a process held at {Point.COPYING}; it has started anew"
        )

    def outcome(self, scene: Scene) -> None:
        assert scene.batch(self.batch_id)["status"] == "completed"

    def _started_at(self, scene: Scene) -> object:
        with contextlib.suppress(psycopg.Error):
            return scene.stack.owner("SELECT pg_postmaster_start_time()")[0][0]
        return None


class EndBackend(Fault):
    """The connection that copies is terminated by an administrator."""

    name = "backend terminated in COPY"

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(Point.COPYING)

    def inject(self, scene: Scene) -> None:
        scene.stack.held(Point.COPYING, self.batch_id)
        ended = scene.stack.owner(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE starts_with(application_name, %s)",
            f"dragonfly:{self.batch_id}:",
        )
        scene.strike()
        if (True,) in ended:
            scene.fired.append(f"{len(ended)} connection terminated with its process held at {Point.COPYING}")
        scene.stack.let_go(Point.COPYING, self.batch_id)

    def outcome(self, scene: Scene) -> None:
        batch = scene.batch(self.batch_id)
        # The database's fault, not the batch's: the attempt is given back.
        assert (batch["attempts"], batch["fence"]) == (1, 2), batch


class NoConnections(Fault):
    """Every connection of the application is ended and none is given out: 503 with Retry-After."""

    name = "connections exhausted"
    outage = True

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(Point.CHECKING)
        scene.stack.held(Point.CHECKING, self.batch_id)

    def inject(self, scene: Scene) -> None:
        stack, file = scene.stack, scene.file()
        stack.owner(f"ALTER ROLE {SERVICE_ROLE} CONNECTION LIMIT 0")
        stack.owner("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", SERVICE_ROLE)
        scene.strike()
        stack.let_go(Point.CHECKING, self.batch_id)
        answer = httpx.post(
            stack.info["web"] + "/api/v1/intake/upload",
            headers=dict(stack.http.headers),
            files={"file": (file.name, file.content)},
            timeout=30,
            trust_env=False,
        )
        scene.bodies.append(answer.text)
        refused = ""
        try:
            psycopg.connect(stack.info["database_url"]).close()
        except psycopg.OperationalError as problem:
            refused = str(problem)
        time.sleep(0.5)
        self.heal(scene)
        scene.heal()
        if "too many connections" in refused:
            scene.fired.append(f"no connection was to be had; an upload was answered {answer.status_code}")
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["code"] == "DATABASE_UNAVAILABLE"
        # As the answer asks for.
        until(lambda: scene.post(file).status_code == 202, 30, "the upload is taken afterwards")

    def heal(self, scene: Scene) -> None:
        scene.stack.owner(f"ALTER ROLE {SERVICE_ROLE} CONNECTION LIMIT -1")


class RowDropped(Fault):
    """The database takes a row and does not keep it: the books do not balance, and nothing may be committed."""

    name = "a row lost within the database"
    outage = True

    def prepare(self, scene: Scene) -> None:
        self.file = scene.file()
        row = min(self.file.first_rows.values())
        scene.stack.owner(
            "CREATE FUNCTION public.lose_a_row() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS "
            f"'BEGIN IF NEW.case_number = ''{self.file.cases[row]}'' THEN RETURN NULL; END IF; RETURN NEW; END'"
        )
        scene.stack.owner(
            "CREATE TRIGGER lose_a_row BEFORE INSERT ON public.judgments FOR EACH ROW EXECUTE FUNCTION public.lose_a_row()"
        )

    def inject(self, scene: Scene) -> None:
        self.batch_id = scene.upload(self.file)
        scene.strike()
        until(
            lambda: (
                scene.stack.said(self.batch_id, "LedgerError") or scene.batch(self.batch_id)["status"] == "completed"
            ),
            30,
            "the attempt ended",
        )
        self.heal(scene)
        scene.heal()
        if scene.stack.said(self.batch_id, "LedgerError"):
            scene.fired.append("an attempt ended with LedgerError")
        else:
            scene.fired.append("a row was dropped and the batch completed all the same")

    def outcome(self, scene: Scene) -> None:
        assert scene.batch(self.batch_id)["attempts"] == 2

    def heal(self, scene: Scene) -> None:
        scene.stack.owner("DROP FUNCTION IF EXISTS public.lose_a_row() CASCADE")

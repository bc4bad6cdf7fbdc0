"""The trial of the end-to-end smoke test: its files, its cases, and how long they may take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from app.batch import DEFAULT_ERROR_THRESHOLD_PERCENT, FINISHED, State, verdict
from app.client import Client, Document, NoAnswerError, RefusedError
from app.store.traces import Run
from monitoring.smoke import Case, CaseFailedError, CouldNotSetUpError, Facts

LIMIT_SECONDS = 120.0
POLL_SECONDS = 2.0
GOOD_ROWS = 200
"""So many that the bad rows of the quality check raise no rate that the sentinel watches."""
BAD_FILE_ROWS, BAD_ROWS = 20, 3

_GLANCE_SECONDS = 0.1
_LOOK_AT_WORKERS = "'dragonfly sentinel' says whether a worker, the broker or the database is the cause."
_LOOK_AT_BATCH = "The workers' log tells under the batch's id what became of it."
_HEADER = "case_number,plaintiff_name,defendant_name,judgment_amount,judgment_date,court,county"
_BAD_ENDS = {
    "MISSING_DEFENDANT": ",,100.00,2024-01-31,Invented Court,Nowhere",
    "INVALID_AMOUNT": ",Invented Person,much,2024-01-31,Invented Court,Nowhere",
    "INVALID_DATE": ",Invented Person,100.00,31/31/2024,Invented Court,Nowhere",
}
"""Code -> what stands behind the plaintiff in a row that is refused with it."""


class Stop:
    """Whether somebody has asked for an end: a signal's handler may only say so, for a request is not broken off."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        """End as soon as the clean-up allows."""
        self.requested = True


class Trial:
    """The cases, and what they have learned of each other."""

    def __init__(
        self,
        url: str,
        key: str,
        own: Run,
        *,
        stop: Stop,
        limit_seconds: float = LIMIT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._client = Client(url, key, pause=self._pause)
        self._run = own
        self._stop = stop
        self._limit_seconds = limit_seconds
        self._poll_seconds = poll_seconds
        self._deadline = 0.0
        self.accepted: list[str] = []
        """Batches that the server says it has made."""
        self.is_unsure = False
        """An upload ended without an answer, so its batch may appear yet."""

    def prove_one_installation(self) -> None:
        """The run's key was made in the database: a server that takes it works on that one. Raises CouldNotSetUpError."""
        self._begin()
        try:
            self._client.state()
        except (NoAnswerError, RefusedError, CaseFailedError) as problem:
            raise CouldNotSetUpError(
                f"The server at {self._client.origin} does not take a key that was made in DATABASE_DIRECT_URL's database: is that "
                f"the server's own? ({problem})"
            ) from None

    def cases(self) -> Sequence[Case]:
        """In the order in which they run."""
        return (
            Case("happy_path", self._timed(self._happy_path)),
            Case("idempotency", self._timed(self._idempotency)),
            Case("quality_check", self._timed(self._quality_check)),
        )

    def close(self) -> None:
        """Ask the server nothing more."""
        self._client.__exit__(None, None, None)

    def _happy_path(self, facts: Facts) -> str:
        batch = self._ended(self._upload(good_file(self._run)))
        for what, found, expected in (
            ("status", batch["status"], State.COMPLETED.value),
            ("rejection_reason", batch["rejection_reason"], None),
            ("row_count_total", batch["row_count_total"], GOOD_ROWS),
            ("row_count_valid", batch["row_count_valid"], GOOD_ROWS),
            ("row_count_inserted", batch["row_count_inserted"], GOOD_ROWS),
            ("row_count_invalid", batch["row_count_invalid"], 0),
            ("row_count_duplicate", batch["row_count_duplicate"], 0),
            ("judgments that the API lists", self._judgments(batch["batch_id"]), GOOD_ROWS),
        ):
            facts.expect(what, found, expected, remedy=_LOOK_AT_BATCH)
        return f"A file of {GOOD_ROWS} rows is completed, and all of them stand as judgments."

    def _idempotency(self, facts: Facts) -> str:
        if not self.accepted:
            raise CaseFailedError("no first upload", expected="that of happy_path", remedy="Mend happy_path first.")
        receipt = self._upload(good_file(self._run))
        remedy = "'dragonfly smoke schema' says whether the unique index on file_hash is there."
        facts.expect("is_duplicate of the same bytes", receipt["is_duplicate"], expected=True, remedy=remedy)
        facts.expect("batch of the same bytes", receipt["batch_id"], self.accepted[0], remedy=remedy)
        return "The same bytes again are answered with the first batch."

    def _quality_check(self, facts: Facts) -> str:
        batch = self._ended(self._upload(bad_file(self._run)))
        budget = DEFAULT_ERROR_THRESHOLD_PERCENT
        reason = verdict(total=BAD_FILE_ROWS, invalid=BAD_ROWS, threshold_percent=budget).reason
        errors = self._client.errors(batch["batch_id"], limit=BAD_FILE_ROWS)["items"]
        for what, found, expected in (
            ("status", batch["status"], State.FAILED.value),
            ("rejection_code", batch["rejection_code"], "ERROR_BUDGET_EXCEEDED"),
            ("rejection_reason", batch["rejection_reason"], reason),
            ("row_count_invalid", batch["row_count_invalid"], BAD_ROWS),
            ("row_count_inserted", batch["row_count_inserted"], 0),
            ("row errors", sorted(error["error_code"] for error in errors), sorted(_BAD_ENDS)),
            ("judgments that the API lists", self._judgments(batch["batch_id"]), 0),
        ):
            facts.expect(what, found, expected, remedy=_LOOK_AT_BATCH)
        return f"A file with {BAD_ROWS} bad rows of {BAD_FILE_ROWS} is failed by its budget: {reason}."

    def _timed(self, case: Callable[[Facts], str]) -> Callable[[Facts], str]:
        def within_its_limit(facts: Facts) -> str:
            self._begin()
            try:
                return case(facts)
            except (NoAnswerError, RefusedError) as problem:
                raise CaseFailedError(f"'{problem}'", expected="an answer", remedy=_LOOK_AT_WORKERS) from None

        return within_its_limit

    def _begin(self) -> None:
        self._deadline = time.monotonic() + self._limit_seconds
        self._look_up()

    def _upload(self, content: bytes) -> Document:
        with tempfile.TemporaryDirectory(prefix="dragonfly-smoke-") as folder:
            file = Path(folder) / self._run.filename
            file.write_bytes(content)
            try:
                receipt = self._client.upload(file, {}, lambda _: None)
            except NoAnswerError:
                self.is_unsure = True
                raise
        if not receipt["is_duplicate"]:
            self.accepted.append(receipt["batch_id"])
        return receipt

    def _ended(self, receipt: Document) -> Document:
        """The batch once it is finished. Raises CaseFailedError when that takes too long."""
        while True:
            try:
                batch = self._client.batch(receipt["batch_id"])
            except NoAnswerError as problem:
                seen = str(problem)
            else:
                if State(batch["status"]) in FINISHED:
                    return batch
                seen = f"the batch still {batch['status']}"
            self._pause(self._poll_seconds, seen)

    def _judgments(self, batch_id: str) -> int:
        """How many of the run's judgments the API lists for the batch."""
        listed = self._client.judgments(batch_id, limit=1_000)["items"]
        return sum(item["case_number"].startswith(self._run.case_prefix) for item in listed)

    def _pause(self, seconds: float, seen: str = "the server busy") -> None:
        until = min(time.monotonic() + seconds, self._deadline)
        while (left := until - time.monotonic()) > 0:
            self._look_up()
            time.sleep(min(left, _GLANCE_SECONDS))
        if time.monotonic() >= self._deadline:
            raise CaseFailedError(
                f"{seen} after {self._limit_seconds:g} s", expected="an end by then", remedy=_LOOK_AT_WORKERS
            )

    def _look_up(self) -> None:
        if self._stop.requested:
            raise CaseFailedError("a request to stop", expected="none before the verdict", remedy="Run it again.")


def good_file(own: Run) -> bytes:
    """GOOD_ROWS valid rows of invented people, the same bytes for the same run."""
    return _file(_good_row(own, number) for number in range(1, GOOD_ROWS + 1))


def bad_file(own: Run) -> bytes:
    """BAD_FILE_ROWS rows with case numbers of their own, BAD_ROWS of which are refused."""
    numbers = range(GOOD_ROWS + 1, GOOD_ROWS + BAD_FILE_ROWS - BAD_ROWS + 1)
    bad = (f"{own.case_prefix}BAD{number},Invented Lender{end}" for number, end in enumerate(_BAD_ENDS.values(), 1))
    return _file([*(_good_row(own, number) for number in numbers), *bad])


def _good_row(own: Run, number: int) -> str:
    return f"{own.case_prefix}{number:04d},Invented Lender,Invented Person {number},{number}.25,2024-01-31,Invented Court,Nowhere"


def _file(rows: Iterable[str]) -> bytes:
    return "\n".join([_HEADER, *rows, ""]).encode()

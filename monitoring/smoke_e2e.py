"""The end-to-end smoke test: three cases through the HTTP API, and afterwards nothing of them is left.

``python -m monitoring.smoke_e2e`` is ``dragonfly smoke e2e``.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.store import smoke, traces
from app.store.blobs import Blobs, StorageError, open_blobs
from app.store.database import open_single
from app.store.traces import MayNotRemoveError, NotRemovedError, Removed, Run
from monitoring.smoke import (
    CouldNotSetUpError,
    Outcome,
    Report,
    database_problem,
    milliseconds_since,
    run_case,
)
from monitoring.smoke_trial import LIMIT_SECONDS, Stop, Trial

_LOCK_SECONDS, _STATEMENT_SECONDS = 20, 60
_TRIES, _PAUSE_SECONDS = 3, 2.0
_WHAT_NOW = (
    "See docs/how-to/smoke-test.md for how to remove it by hand; else the next run removes what is 10 minutes old."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The deployment: where its API is, its database as the owner reaches it, its files. The last two hold passwords."""

    url: str
    database_direct_url: str
    storage: str


def run(
    site: Site,
    *,
    environment: str,
    stop: Stop,
    limit_seconds: float = LIMIT_SECONDS,
) -> Report:
    """Run every case and clean up, whatever happens in between. Raises CouldNotSetUpError, before anything is uploaded."""
    timestamp, began = dt.datetime.now(dt.UTC), time.monotonic()
    own = Run.new()
    engine = open_single(site.database_direct_url)
    blobs, notes, key = _set_up(site, engine, own)
    trial = Trial(site.url, key, own, stop=stop, limit_seconds=limit_seconds)
    outcomes: list[Outcome] = []
    try:
        trial.prove_one_installation()
        outcomes += [run_case(case) for case in trial.cases()]
    except CouldNotSetUpError as problem:
        cleaned = _clean_up(engine, blobs, own, trial)
        raise problem if cleaned.passed else CouldNotSetUpError(f"{problem} {cleaned.message}") from None
    except BaseException:
        _clean_up(engine, blobs, own, trial)
        raise
    return Report(
        test="e2e",
        environment=environment,
        timestamp=timestamp,
        outcomes=outcomes,
        clean_up=_clean_up(engine, blobs, own, trial),
        notes=notes,
        elapsed_ms=milliseconds_since(began),
    )


def main() -> None:
    """``python -m monitoring.smoke_e2e``."""
    from app.smoke_commands import e2e, run_alone

    run_alone(e2e, "monitoring.smoke_e2e")


def _set_up(site: Site, engine: Engine, own: Run) -> tuple[Blobs, list[str], str]:
    """The files, what earlier runs had left, and a key of this run's own. Raises CouldNotSetUpError."""
    try:
        blobs = _open_files(site.storage)
        blobs.check()
        with engine.begin() as connection:
            left_behind = traces.left_behind(connection)
        notes = [_swept(earlier, _remove(engine, blobs, earlier)) for earlier in left_behind]
        with engine.begin() as connection:
            return blobs, notes, traces.begin(connection, own)
    except StorageError as problem:
        raise CouldNotSetUpError(f"STORAGE_URL's files are needed to remove what is uploaded: {problem}.") from None
    except MayNotRemoveError as problem:
        raise CouldNotSetUpError(str(problem)) from None
    except NotRemovedError as problem:
        raise CouldNotSetUpError(f"An earlier run cannot be removed: {problem}. {_WHAT_NOW}") from None
    except SQLAlchemyError as problem:
        raise CouldNotSetUpError(
            f"The database of DATABASE_DIRECT_URL cannot be used ({database_problem(problem)}): is it running, and migrated "
            "with 'dragonfly migrate'?"
        ) from None


def _open_files(storage: str) -> Blobs:
    folder = storage.removeprefix("file://")
    if "://" not in folder and not Path(folder).is_dir():
        # To open it would make it.
        raise StorageError(f"there is no folder {folder}")
    return open_blobs(storage)


def _clean_up(engine: Engine, blobs: Blobs, own: Run, trial: Trial) -> Outcome:
    """Remove all of the run; tried again where the database is away for a moment, or an upload may yet arrive."""
    trial.close()
    began = time.monotonic()
    removed: list[Removed] = []
    problem = ""
    for _ in range(_TRIES):
        try:
            removed.append(_remove(engine, blobs, own))
        except NotRemovedError as mismatch:
            problem = str(mismatch)
            break
        except (SQLAlchemyError, MayNotRemoveError) as trouble:
            problem = database_problem(trouble)
        else:
            problem = ""
            if not trial.is_unsure:
                break
        time.sleep(_PAUSE_SECONDS)
    missed = set(trial.accepted) - {str(batch_id) for part in removed for batch_id in part.batch_ids}
    lost = [key for part in removed for key in part.lost_blobs]
    if problem or missed:
        ids = f"its batches: {', '.join(sorted(missed)) or 'none'}"
        message = f"Found run {own.id} not removed ({problem or 'batches are missing'}; {ids}); expected no trace. {_WHAT_NOW}"
    elif lost:
        message = (
            f"Found the files {', '.join(lost)} not removable; expected them in STORAGE_URL's store. Every row is removed; "
            "remove these files from the server's store, and set STORAGE_URL to it."
        )
    else:
        message = f"Removed again: {_figures(removed)}."
    return Outcome("clean_up", not (problem or missed or lost), message, milliseconds_since(began))


def _remove(engine: Engine, blobs: Blobs, of: Run) -> Removed:
    with engine.begin() as connection:
        smoke.bound_waits(connection, lock_seconds=_LOCK_SECONDS, statement_seconds=_STATEMENT_SECONDS)
        traces.stop(connection, of)
    with engine.begin() as connection:
        smoke.bound_waits(connection, lock_seconds=_LOCK_SECONDS, statement_seconds=_STATEMENT_SECONDS)
        return traces.remove(connection, blobs, of)


def _swept(earlier: Run, removed: Removed) -> str:
    return f"Removed what run {earlier.id} had left: {_figures([removed])}."


def _figures(parts: Sequence[Removed]) -> str:
    return (
        f"{sum(len(part.batch_ids) for part in parts)} batches, {sum(part.judgments for part in parts)} judgments, "
        f"{sum(part.row_errors for part in parts)} row errors, {sum(part.blobs for part in parts)} files"
    )


if __name__ == "__main__":
    main()

"""The figures of the ops views counted in Python from the batches and errors themselves, and random ones to count."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from app.batch import FINISHED, State
from app.errors import CATALOGUE

AGAINST_A_DATABASE = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    # Looking for the smallest example would outlast a test's time.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
"""For examples that are written to a database; each begins by emptying the tables."""
HOUR = dt.timedelta(hours=1)
Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Batch:
    """What the views look at in a batch."""

    created_at: dt.datetime
    status: State
    valid: int
    invalid: int
    duplicate: int
    parse_ms: int | None
    db_ms: int | None

    def columns(self) -> dict[str, Any]:
        """As the table keeps it."""
        return {
            "created_at": self.created_at,
            "status": self.status.value,
            "completed_at": self.created_at + HOUR if self.status in FINISHED else None,
            "rejection_reason": "Refused for a test." if self.status is State.FAILED else None,
            "row_count_total": self.valid + self.invalid,
            "row_count_valid": self.valid,
            "row_count_invalid": self.invalid,
            "row_count_inserted": self.valid - self.duplicate,
            "row_count_duplicate": self.duplicate,
            "parse_duration_ms": self.parse_ms,
            "db_duration_ms": self.db_ms,
        }


@dataclass(frozen=True)
class Error:
    """What the views look at in a row error; ``batch`` is a number of the test's own."""

    batch: int
    code: str
    stage: str
    created_at: dt.datetime


def batches(moments: st.SearchStrategy[dt.datetime]) -> st.SearchStrategy[list[Batch]]:
    """Some batches."""
    milliseconds = st.none() | st.integers(0, 5_000)

    @st.composite
    def one(draw: st.DrawFn) -> Batch:
        valid = draw(st.integers(0, 50))
        return Batch(
            created_at=draw(moments),
            status=draw(st.sampled_from(State)),
            valid=valid,
            invalid=draw(st.integers(0, 50)),
            duplicate=draw(st.integers(0, valid)),
            parse_ms=draw(milliseconds),
            db_ms=draw(milliseconds),
        )

    return st.lists(one(), max_size=12)


def errors(moments: st.SearchStrategy[dt.datetime]) -> st.SearchStrategy[list[Error]]:
    """Some errors of three batches; a code may stand in two stages, which the application never does."""
    return st.lists(
        st.builds(
            Error,
            batch=st.integers(0, 2),
            code=st.sampled_from(("INVALID_AMOUNT", "PARSE_ERROR", "UNHEARD_OF")),
            stage=st.sampled_from(("parse", "validate")),
            created_at=moments,
        ),
        max_size=25,
    )


def by_hour(found: Iterable[Batch], start: dt.datetime, end: dt.datetime) -> Figures:
    """ops.v_batch_performance of the batches that were made from ``start`` on and before ``end``."""
    chosen = [batch for batch in found if start <= batch.created_at < end]
    return [
        {
            "hour_bucket": hour,
            "total_batches": len(those),
            "completed_batches": sum(batch.status is State.COMPLETED for batch in those),
            "failed_batches": sum(batch.status is State.FAILED for batch in those),
            "avg_parse_ms": _average(batch.parse_ms for batch in those),
            "avg_db_ms": _average(batch.db_ms for batch in those),
            "avg_total_ms": _average(
                None if batch.parse_ms is None or batch.db_ms is None else batch.parse_ms + batch.db_ms
                for batch in those
            ),
            "total_rows": sum(batch.valid + batch.invalid for batch in those),
            "inserted_rows": sum(batch.valid - batch.duplicate for batch in those),
            "skipped_rows": sum(batch.duplicate for batch in those),
            "error_rows": sum(batch.invalid for batch in those),
            "dedupe_rate_pct": _percent(sum(batch.duplicate for batch in those), sum(batch.valid for batch in those)),
            "error_rate_pct": _error_rate(those),
        }
        for hour, those in _grouped(chosen, _hour)
    ]


def by_week_and_month(
    found: Iterable[Batch], start: dt.datetime | None = None, end: dt.datetime | None = None
) -> Figures:
    """ops.v_error_trend."""
    chosen = [
        batch
        for batch in found
        if (start is None or start <= batch.created_at) and (end is None or batch.created_at < end)
    ]
    return [
        {
            "period": period,
            "bucket": bucket,
            "batches": len(those),
            "rows": sum(batch.valid + batch.invalid for batch in those),
            "error_rate_pct": _error_rate(those),
        }
        for period, bucket_of in (("month", _month), ("week", _week))
        for bucket, those in _grouped(chosen, bucket_of)
    ]


def by_code(found: Iterable[Error], start: dt.datetime, end: dt.datetime) -> Figures:
    """ops.v_error_distribution of the errors from ``start`` on and before ``end``."""
    chosen = [error for error in found if start <= error.created_at < end]
    figures = [
        {
            "error_code": code,
            "occurrence_count": len(those),
            "affected_batches": len({error.batch for error in those}),
            "sample_message": CATALOGUE[code].sentence if code in CATALOGUE else None,
            "last_seen_at": max(error.created_at for error in those),
        }
        for code in {error.code for error in chosen}
        for those in [[error for error in chosen if error.code == code]]
    ]
    return sorted(figures, key=lambda row: (-int(str(row["occurrence_count"])), str(row["error_code"])))


def by_state(found: Iterable[Batch], now: dt.datetime) -> Figures:
    """ops.v_pipeline_health."""
    listed = list(found)
    return [
        {
            "status": status,
            "batch_count": len(those),
            "oldest_batch_at": min(those),
            "oldest_age_minutes": _rounded(Fraction((now - min(those)) // dt.timedelta(microseconds=1), 60_000_000), 1),
            "newest_batch_at": max(those),
        }
        for status in sorted({batch.status.value for batch in listed})
        for those in [[batch.created_at for batch in listed if batch.status.value == status]]
    ]


def _grouped(
    found: Sequence[Batch], bucket_of: Callable[[dt.datetime], dt.datetime]
) -> Iterator[tuple[dt.datetime, list[Batch]]]:
    for bucket in sorted({bucket_of(batch.created_at) for batch in found}, reverse=True):
        yield bucket, [batch for batch in found if bucket_of(batch.created_at) == bucket]


def _hour(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)


def _week(moment: dt.datetime) -> dt.datetime:
    return _hour(moment).replace(hour=0) - dt.timedelta(days=moment.astimezone(dt.UTC).weekday())


def _month(moment: dt.datetime) -> dt.datetime:
    return _hour(moment).replace(day=1, hour=0)


def _error_rate(those: Iterable[Batch]) -> Decimal | None:
    listed = list(those)
    return _percent(sum(batch.invalid for batch in listed), sum(batch.valid + batch.invalid for batch in listed))


def _average(values: Iterable[int | None]) -> Decimal | None:
    known = [value for value in values if value is not None]
    return _rounded(Fraction(sum(known), len(known)), 1) if known else None


def _percent(part: int, whole: int) -> Decimal | None:
    return _rounded(Fraction(100 * part, whole), 2) if whole else None


def _rounded(value: Fraction, places: int) -> Decimal:
    """Rounded half away from zero, as PostgreSQL rounds numerics."""
    scaled = abs(value) * 10**places + Fraction(1, 2)
    return Decimal(int(scaled) * (1 if value >= 0 else -1)).scaleb(-places)

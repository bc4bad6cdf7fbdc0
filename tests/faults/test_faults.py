"""A short round of every kind of fault; ``make faults ROUNDS=n`` runs many."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.faults import KINDS
from tests.faults.rounds import Campaign, Fault, NotThereError, campaign

ROWS = 1_500


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """One stack for all kinds: each leaves it whole for the next."""
    folder = tmp_path_factory.mktemp("faults")
    with campaign(folder / "home", lease_seconds=2, short=True) as started:
        yield started


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind().name)
def test_nothing_is_lost(running: Campaign, kind: Callable[[], Fault]) -> None:
    try:
        record = running.run(kind(), rows=ROWS)
    except NotThereError as missing:
        pytest.skip(f"this machine lacks {missing}")
    print(f"{record.seconds:.1f} s: {record.evidence}; resumed {record.resumed}, terminal {record.terminal}")
    assert record.breaches == []
    assert record.fired
    assert (record.lost, record.duplicated, record.unaccounted) == (0, 0, 0)
    assert record.rows > 0

"""The running pipeline that the acceptance tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.pipeline import Pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack with three workers and a short lease, so that takeovers need no patience."""
    running = Pipeline(tmp_path_factory.mktemp("pipeline") / "home", workers=3, settings={"LEASE_SECONDS": "3"})
    yield running
    running.stop()

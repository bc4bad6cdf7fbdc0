"""How the tests read compose.yaml."""

from __future__ import annotations

import pytest

from tests.compose_file import read


def test_a_key_that_stands_twice_is_refused_as_compose_refuses_it() -> None:
    with pytest.raises(ValueError, match="line 2: B stands twice"):
        read("a:\n  B: 1\n  C: 2\n  B: 1\n")


def test_merged_mappings_may_be_overridden() -> None:
    assert read("a: &a {B: 1}\nc:\n  <<: *a\n  B: 2\n")["c"] == {"B": 2}

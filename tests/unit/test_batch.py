"""The batch life: the transitions of the design, and the verdict on the error rate."""

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.batch import FINISHED, RUNNING, TRANSITIONS, UNFINISHED, State, error_rate_percent, verdict

REASON = re.compile(r"Error rate ([0-9]+\.[0-9]+)% exceeded the ([0-9]+)% budget \(([0-9,]+) of ([0-9,]+) rows\)")
counts = st.integers(1, 10**9).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))


class TestTransitions:
    def test_they_are_those_of_the_design(self) -> None:
        running = {State.STAGING, State.VALIDATING, State.INSERTING}
        unfinished = running | {State.UPLOADED, State.AWAITING_APPROVAL}
        arrows = {
            (State.UPLOADED, State.STAGING),
            (State.STAGING, State.VALIDATING),
            (State.VALIDATING, State.INSERTING),
            (State.INSERTING, State.COMPLETED),
            (State.FAILED, State.UPLOADED),
            (State.VALIDATING, State.AWAITING_APPROVAL),
            (State.AWAITING_APPROVAL, State.INSERTING),
            (State.AWAITING_APPROVAL, State.FAILED),
            (State.COMPLETED, State.REVERTED),
        }
        arrows |= {(state, State.STAGING) for state in running}
        arrows |= {(state, State.UPLOADED) for state in running}
        arrows |= {(state, end) for state in unfinished for end in (State.FAILED, State.CANCELLED)}
        assert {(start, end) for start, ends in TRANSITIONS.items() for end in ends} == arrows

    def test_every_state_has_its_transitions(self) -> None:
        assert set(TRANSITIONS) == set(State)

    def test_every_state_can_be_reached(self) -> None:
        reached, ahead = {State.UPLOADED}, [State.UPLOADED]
        while ahead:
            new = TRANSITIONS[ahead.pop()] - reached
            reached |= new
            ahead += new
        assert reached == set(State)

    def test_the_states_are_named_as_the_database_names_them(self) -> None:
        assert {state.value for state in State} == {
            "uploaded",
            "staging",
            "validating",
            "awaiting_approval",
            "inserting",
            "completed",
            "failed",
            "cancelled",
            "reverted",
        }

    def test_a_lease_is_held_while_staging_validating_and_inserting(self) -> None:
        assert {State.STAGING, State.VALIDATING, State.INSERTING} == RUNNING

    def test_a_state_is_finished_or_unfinished(self) -> None:
        assert {State.COMPLETED, State.FAILED, State.CANCELLED, State.REVERTED} == FINISHED
        assert set(State) - FINISHED == UNFINISHED

    def test_the_transitions_cannot_be_changed(self) -> None:
        with pytest.raises(TypeError):
            TRANSITIONS[State.CANCELLED] = frozenset({State.UPLOADED})  # type: ignore[index]


class TestVerdict:
    def test_exactly_the_threshold_passes(self) -> None:
        assert verdict(total=1000, invalid=100, threshold_percent=10).accepted
        assert verdict(total=10, invalid=1, threshold_percent=10).accepted
        assert verdict(total=3_000_000, invalid=300_000, threshold_percent=10).accepted

    def test_above_the_threshold_is_refused_in_the_documented_words(self) -> None:
        refused = verdict(total=1000, invalid=150, threshold_percent=10)
        assert not refused.accepted
        assert refused.reason == "Error rate 15.0% exceeded the 10% budget (150 of 1,000 rows)"

    @pytest.mark.parametrize(
        ("total", "invalid", "shown"),
        [
            (1000, 101, "10.1"),
            (10_000, 1_001, "10.01"),
            (100_000, 10_001, "10.001"),
            (1_000_000, 100_001, "10.0001"),
            (7, 1, "14.3"),
            (1, 1, "100.0"),
        ],
    )
    def test_as_many_decimals_are_shown_as_it_takes_to_see_the_breach(
        self, total: int, invalid: int, shown: str
    ) -> None:
        reason = verdict(total=total, invalid=invalid, threshold_percent=10).reason
        assert reason == f"Error rate {shown}% exceeded the 10% budget ({invalid:,} of {total:,} rows)"

    @pytest.mark.parametrize("invalid", [0, 1, 50, 100])
    def test_a_threshold_of_a_hundred_refuses_nothing(self, invalid: int) -> None:
        assert verdict(total=100, invalid=invalid, threshold_percent=100).accepted

    def test_a_threshold_of_zero_refuses_one_row_in_a_million(self) -> None:
        assert verdict(total=1_000_000, invalid=0, threshold_percent=0).accepted
        reason = verdict(total=1_000_000, invalid=1, threshold_percent=0).reason
        assert reason == "Error rate 0.0001% exceeded the 0% budget (1 of 1,000,000 rows)"

    @pytest.mark.parametrize(("total", "invalid"), [(10, 11), (10, -1), (-1, 0)])
    def test_impossible_counts_are_a_mistake_of_the_caller(self, total: int, invalid: int) -> None:
        with pytest.raises(ValueError, match="impossible"):
            verdict(total=total, invalid=invalid, threshold_percent=10)

    @settings(deadline=None, max_examples=500)
    @given(counts, st.integers(0, 100))
    @example((10**9, 10**8 + 1), 10)
    @example((999_999_999, 99_999_999), 10)
    def test_it_matches_exact_arithmetic(self, rows: tuple[int, int], threshold: int) -> None:
        total, invalid = rows
        outcome = verdict(total=total, invalid=invalid, threshold_percent=threshold)
        assert outcome.accepted == (Fraction(invalid, total) <= Fraction(threshold, 100))
        assert (outcome.reason is None) == outcome.accepted

    @settings(deadline=None, max_examples=500)
    @given(st.integers(1, 10**9), st.integers(0, 99), st.integers(1, 1000))
    def test_the_figure_shown_is_above_the_budget_and_rounded_from_the_rate(
        self, total: int, threshold: int, excess: int
    ) -> None:
        invalid = min(total, total * threshold // 100 + excess)
        reason = verdict(total=total, invalid=invalid, threshold_percent=threshold).reason
        assert reason is not None
        found = REASON.fullmatch(reason)
        assert found is not None
        shown, decimals = Fraction(found[1]), len(found[1].partition(".")[2])
        assert shown > threshold == int(found[2])
        assert abs(shown - Fraction(invalid * 100, total)) <= Fraction(1, 2 * 10**decimals)
        assert (found[3], found[4]) == (f"{invalid:,}", f"{total:,}")


class TestErrorRate:
    def test_it_is_in_per_cent_to_two_decimals(self) -> None:
        assert str(error_rate_percent(total=1000, invalid=150)) == "15.00"
        assert error_rate_percent(total=3, invalid=1) == Decimal("33.33")

    @pytest.mark.parametrize(("total", "invalid"), [(None, None), (0, 0), (10, None), (None, 1)])
    def test_it_is_none_where_no_row_has_been_read(self, total: int | None, invalid: int | None) -> None:
        assert error_rate_percent(total=total, invalid=invalid) is None

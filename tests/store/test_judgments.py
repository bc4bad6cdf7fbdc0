"""The judgments' target: all or none of a range, the keys that stand, and ids in one block."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from sqlalchemy import Connection, Engine, text

from app.engine.cells import PAD
from app.engine.conflicts import Meeting
from app.engine.pack import TEXTS, Values, pack
from app.rows import PLACE, Outcome, Packed, Standing, pack_error
from app.store import judgments, row_errors
from app.store.database import open_single
from app.store.judgments import JudgmentTarget
from tests.conftest import Look
from tests.store.conftest import Batches


def accepted(case_number: str, row_index: int = 0, **overrides: Any) -> dict[str, Any]:
    """A row as the engine has read it; days count from 2000-01-01."""
    return {
        "case_number": case_number,
        "row_index": row_index,
        "plaintiff_name": "Harrow Lending LLC",
        "defendant_name": "Ada Marlow",
        "cents": 1234_50,
        "days": (dt.date(2024, 1, 31) - dt.date(2000, 1, 1)).days,
        "court": None,
        "county": "Kings",
        **overrides,
    }


def packed(batch_id: UUID, rows: Iterable[dict[str, Any]]) -> list[Packed]:
    """The rows as the engine hands them over."""
    found = list(rows)
    texts: dict[str, tuple[list[int], list[int]]] = {name: ([], []) for name in TEXTS}
    octets = bytearray(PAD)
    for row in found:
        for name, (starts, lengths) in texts.items():
            content = row[name]
            starts.append(len(octets))
            lengths.append(-1 if content is None else len(content.encode()))
            octets += (content or "").encode()
    octets += bytes(PAD)
    numbers = {name: np.array([row[name] or 0 for row in found], np.int64) for name in ("cents", "days", "row_index")}
    values = Values(
        np.frombuffer(bytes(octets), np.uint8),
        {name: (np.array(starts), np.array(lengths)) for name, (starts, lengths) in texts.items()},
        numbers["cents"],
        numbers["days"],
        np.array([row["days"] is not None for row in found]),
        numbers["row_index"],
        numbers["row_index"] + 2,
        np.zeros(len(found), PLACE),
    )
    return [pack(values, batch_id)]


@pytest.fixture
def batch_id(made: Batches) -> UUID:
    """A batch that is loaded."""
    return made.claimed().id


@pytest.fixture
def loading(database: Engine) -> Iterator[Connection]:
    """A load's transaction, committed when it is left in good order."""
    with database.begin() as connection:
        yield connection


class TestIds:
    def test_a_block_begins_where_the_last_one_ended(self, database: Engine) -> None:
        with database.begin() as connection:
            first = judgments.reserve_ids(connection, 10)
            assert judgments.reserve_ids(connection, 1) == first + 10
            assert judgments.reserve_ids(connection, 5) == first + 11
            assert judgments.reserve_ids(connection, 0) == first + 16

    def test_blocks_taken_at_once_do_not_overlap(self, database: Engine) -> None:
        def reserve(count: int) -> tuple[int, int]:
            with database.begin() as connection:
                first = judgments.reserve_ids(connection, count)
            return first, first + count

        with ThreadPoolExecutor(8) as pool:
            blocks = sorted(pool.map(reserve, [1, 7, 100, 3] * 20))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(blocks))
        assert blocks[-1][1] - blocks[0][0] == 111 * 20


class TestInsert:
    def test_every_value_arrives_as_it_is(self, loading: Connection, batch_id: UUID, look: Look) -> None:
        awkward = "tab\tline\nreturn\rback\\slash \\N \\. 'quote' \"é\" \U0001f600"
        rows = [
            accepted("C-1", 3, plaintiff_name=None, days=None, court=None, county=None),
            accepted("C-2", 1, defendant_name=awkward, court="", cents=99_999_999_999_999),
        ]
        target = JudgmentTarget(loading, batch_id, first_id=501)
        assert target.insert(packed(batch_id, rows)) is Outcome.LOADED
        loading.commit()
        assert look.rows(
            "SELECT id, case_number, plaintiff_name, defendant_name, judgment_amount, judgment_date::text, court, county,"
            " batch_id, row_index, line_number FROM public.judgments ORDER BY id"
        ) == [
            (501, "C-1", None, "Ada Marlow", Decimal("1234.50"), None, None, None, batch_id, 3, 5),
            (502, "C-2", "Harrow Lending LLC", awkward, Decimal("999999999999.99"), "2024-01-31", "", "Kings", batch_id, 1, 3),
        ]  # fmt: skip

    def test_a_taken_key_inserts_nothing_and_uses_no_id(
        self, loading: Connection, batch_id: UUID, made: Batches, look: Look
    ) -> None:
        made.put_judgment(uuid4(), 1, case_number="C-2")
        target = JudgmentTarget(loading, batch_id, first_id=501)
        assert target.insert(packed(batch_id, [accepted("C-1"), accepted("C-2"), accepted("C-3")])) is Outcome.KEY_TAKEN
        assert target.insert(packed(batch_id, [accepted("C-1"), accepted("C-3")])) is Outcome.LOADED
        loading.commit()
        assert look.rows("SELECT id, case_number FROM public.judgments ORDER BY id") == [
            (1, "C-2"),
            (501, "C-1"),
            (502, "C-3"),
        ]

    @pytest.mark.parametrize(
        "refused",
        [{"cents": 1234567890123_00}, {"days": 2**31 - 2}, {"defendant_name": "\x00"}],
    )
    def test_a_row_that_the_database_refuses_refuses_the_range(
        self, loading: Connection, batch_id: UUID, look: Look, refused: dict[str, Any]
    ) -> None:
        target = JudgmentTarget(loading, batch_id, first_id=501)
        assert target.insert(packed(batch_id, [accepted("C-1"), accepted("C-2", **refused)])) is Outcome.REFUSED
        assert target.insert(packed(batch_id, [accepted("C-3")])) is Outcome.LOADED
        loading.commit()
        assert look.rows("SELECT id, case_number FROM public.judgments") == [(501, "C-3")]

    def test_it_says_that_it_moves(self, loading: Connection, batch_id: UUID) -> None:
        moves: list[None] = []
        target = JudgmentTarget(loading, batch_id, first_id=1, alive=lambda: moves.append(None))
        rows = [accepted(f"C-{number:06}", number, defendant_name="x" * 400) for number in range(2_000)]
        target.insert(packed(batch_id, rows))
        assert len(moves) > 5

    def test_what_loses_the_claim_ends_it(self, loading: Connection, batch_id: UUID) -> None:
        def lost() -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            JudgmentTarget(loading, batch_id, first_id=1, alive=lost).insert(packed(batch_id, [accepted("C-1")]))
        loading.rollback()

    def test_an_unavailable_database_is_no_refusal(self, database: Engine, batch_id: UUID, look: Look) -> None:
        with database.connect() as connection:
            target = JudgmentTarget(connection, batch_id, first_id=1)
            ((pid,),) = connection.execute(text("SELECT pg_backend_pid()"))
            look.rows("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
            with pytest.raises(psycopg.OperationalError):
                target.insert(packed(batch_id, [accepted("C-1")]))
            connection.invalidate()


def standing_keys(standing: Standing) -> list[str]:
    """The case numbers of judgments that stand, in their order."""
    ends = standing.ends.tolist()
    found = [standing.octets[start:end].tobytes() for start, end in itertools.pairwise([0, *ends])]
    return [row[64 : 64 + int.from_bytes(row[60:64])].decode() for row in found]


class TestInsertAbsent:
    def test_it_leaves_out_what_stands(self, loading: Connection, batch_id: UUID, made: Batches, look: Look) -> None:
        made.put_judgment(uuid4(), 1, case_number="C-2")
        made.put_judgment(uuid4(), 2, case_number="C-4")
        target = JudgmentTarget(loading, batch_id, first_id=501)
        rows = [accepted(f"C-{number}", number) for number in range(1, 6)]
        rows.append(accepted("C-5", 9))
        assert target.insert_absent(packed(batch_id, rows)) is Outcome.LOADED
        loading.commit()
        assert look.rows(
            "SELECT case_number, row_index FROM public.judgments WHERE batch_id = :id ORDER BY 1", id=batch_id
        ) == [("C-1", 1), ("C-3", 3), ("C-5", 5)]

    def test_it_may_be_called_again_in_one_load(self, loading: Connection, batch_id: UUID, look: Look) -> None:
        target = JudgmentTarget(loading, batch_id, first_id=501)
        first, again = packed(batch_id, [accepted("C-1")]), packed(batch_id, [accepted("C-1", 1), accepted("C-2", 2)])
        assert target.insert_absent(first) is Outcome.LOADED
        assert target.insert_absent(again) is Outcome.LOADED
        loading.commit()
        assert look.rows("SELECT count(DISTINCT id), count(*) FROM public.judgments") == [(2, 2)]

    def test_a_refused_row_inserts_none(self, loading: Connection, batch_id: UUID) -> None:
        target = JudgmentTarget(loading, batch_id, first_id=501)
        refused = accepted("C-2", cents=1234567890123_00)
        (rows,) = packed(batch_id, [accepted("C-1"), refused])
        assert target.insert_absent([rows]) is Outcome.REFUSED
        assert not len(target.standing(rows))


class TestWhatStands:
    def test_it_is_found_under_the_rows_keys(self, loading: Connection, batch_id: UUID, made: Batches) -> None:
        made.put_judgment(uuid4(), 1, case_number="C-2")
        target = JudgmentTarget(loading, batch_id, first_id=501)
        target.insert(packed(batch_id, [accepted("C-1")]))
        (rows,) = packed(batch_id, [accepted(key) for key in ("C-1", "C-2", "C-3", "D-4", "D-5", "D-6")])
        assert standing_keys(target.standing(rows)) == ["C-1", "C-2"]
        assert standing_keys(target.standing(rows.part(2, 4))) == []
        assert standing_keys(target.standing(rows.part(0, 0))) == []

    @pytest.mark.parametrize("others", [0, 3, 50])
    def test_it_is_found_among_few_neighbours_and_among_many(
        self, loading: Connection, batch_id: UUID, made: Batches, others: int
    ) -> None:
        made.put_judgment(uuid4(), 1, case_number="A-1")
        stand = ["K-1", "K-15", "K-2", *(f"K-1{place:03}" for place in range(others))]
        for number, key in enumerate(stand, start=2):
            made.put_judgment(uuid4(), number, case_number=key)
        target = JudgmentTarget(loading, batch_id, first_id=501)
        (known,) = packed(batch_id, [accepted("A-1")])
        wanted = [accepted("K-1"), accepted("K-14"), accepted("K-15"), accepted("K-2", 1), accepted("K-2", 2)]
        (rows,) = packed(batch_id, wanted)
        # What most keys of the last rows found decides how the next are sought.
        for _ in range(2):
            assert standing_keys(target.standing(known)) == ["A-1"]
            assert set(standing_keys(target.standing(rows))) >= {"K-1", "K-15", "K-2"}
            assert Meeting(rows, target.standing(rows)).partners.tolist()[1] == -1

    def test_duplicates_are_kept_with_their_differences(
        self, loading: Connection, batch_id: UUID, made: Batches, look: Look
    ) -> None:
        other = uuid4()
        made.put_judgment(
            other, 1, case_number="C-1", row_index=9, judgment_date="2024-01-31", judgment_amount="7", county="Kings"
        )
        target = JudgmentTarget(loading, batch_id, first_id=501)
        target.insert(packed(batch_id, [accepted("C-2", 1)]))
        again = [
            accepted("C-1", 4, days=None, defendant_name='Bé"la\\', court="Civil"),
            accepted("C-2", 5),
        ]
        (rows,) = packed(batch_id, again)
        found = Meeting(rows, target.standing(rows)).conflicts()
        assert (found.rows, found.differing, found.cents) == (2, 1, 2469_00)
        target.keep([found])
        assert target.kept == 2
        loading.commit()
        fields = {
            "plaintiff_name": [None, "Harrow Lending LLC"],
            "defendant_name": ["Ada Marlow", 'Bé"la\\'],
            "judgment_amount": ["7.00", "1234.50"],
            "judgment_date": ["2024-01-31", None],
            "court": [None, "Civil"],
        }
        assert look.rows(
            "SELECT batch_id, row_index, case_number, kept_batch_id, kept_row_index, fields"
            " FROM intake.row_conflicts ORDER BY row_index"
        ) == [(batch_id, 4, "C-1", other, 9, fields), (batch_id, 5, "C-2", batch_id, 1, {})]


class TestTotals:
    def test_they_count_the_batchs_own_within_its_block(self, database: Engine, made: Batches) -> None:
        batch_id, other = uuid4(), uuid4()
        for number, owner in enumerate([batch_id, batch_id, other, batch_id], start=1):
            made.put_judgment(owner, number, judgment_amount="10.05")
        with database.begin() as connection:
            assert judgments.totals(connection, batch_id, 1, 3) == (2, Decimal("20.10"))
            assert judgments.totals(connection, batch_id, 50, 60) == (0, Decimal(0))


class TestBeginLoad:
    def test_its_settings_end_with_the_transaction(self, service_url: str, batch_id: UUID) -> None:
        names = """
            SELECT current_setting('application_name'), current_setting('lock_timeout'),
                current_setting('idle_in_transaction_session_timeout')
        """
        database = open_single(service_url, idle_seconds=7)
        with database.connect() as connection:
            with connection.begin():
                judgments.begin_load(connection, batch_id, 3)
                assert connection.execute(text(names)).one() == (f"dragonfly:{batch_id}:3", "1min", "0")
            with connection.begin():
                assert connection.execute(text(names)).one() == ("", "0", "7s")


class TestRowErrors:
    def test_they_are_stored_and_counted(self, database: Engine, batch_id: UUID, look: Look) -> None:
        found = [
            pack_error(
                batch_id.bytes,
                number,
                number + 2,
                number + 2,
                code="PARSE_ERROR",
                message="Row: x",
                stage="parse",
                raw_data=b'{"_raw": "a\\\\b\\t"}',
                raw=b"\x00\xffa\\b\t\n",
            ).octets
            for number in range(2_500)
        ]
        ticks: list[None] = []
        with database.begin() as connection:
            row_errors.store(connection, found, lambda: ticks.append(None))
            assert row_errors.count(connection, batch_id) == 2_500
        assert len(ticks) >= 3
        assert look.rows(
            "SELECT row_index, line_number, row_number, error_code, error_message, error_stage, raw_data, raw, resolved_at"
            " FROM intake.row_errors WHERE row_index = 2499"
        ) == [(2499, 2501, 2501, "PARSE_ERROR", "Row: x", "parse", {"_raw": "a\\b\t"}, b"\x00\xffa\\b\t\n", None)]

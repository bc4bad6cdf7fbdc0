"""Delimited text: where records begin and end, that damage costs only itself, and that no byte is lost or read twice."""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from app.block import Block, Place
from app.errors import FileRefusedError
from app.formats import window
from app.formats.csv import CsvReader, Limits
from app.judgment import is_empty
from tests.factories import clean_file

HEADER = b"case_number,defendant_name,judgment_amount\n"
ROOMY = Limits(max_record_bytes=64 * 1024, max_columns=100)
LINE_END = re.compile(rb"\r\n|\r|\n")


class Record(NamedTuple):
    """One record as the reader gives it; ``cells`` is None where it is damaged."""

    place: Place
    cells: tuple[str, ...] | None
    problem: str | None
    raw: bytes


def records_of(block: Block) -> list[Record]:
    """The block's records; the one place here that knows how a block holds them."""
    found = [Record(row.place, row.cells, None, block.raw(row.place)) for row in block.rows]
    found += [Record(lost.place, None, lost.problem, block.raw(lost.place)) for lost in block.damaged]
    plain = range(0 if block.plain is None else len(block.plain))
    found += [Record(block.place(index), block.cells(index), None, block.raw(block.place(index))) for index in plain]
    return sorted(found)


def all_records(reader: CsvReader) -> list[Record]:
    return [record for block in reader.blocks() for record in records_of(block)]


def read(data: bytes, limits: Limits = ROOMY) -> list[Record]:
    """Every record, in file order."""
    reader = CsvReader(iter([data]), limits)
    found = all_records(reader)
    assert reader.bytes_read() == len(data)
    assert found == sorted(found)
    return found


def cells(data: bytes) -> list[tuple[str, ...] | None]:
    return [record.cells for record in read(data)]


def pieces_of(data: bytes, sizes: Iterator[int]) -> list[bytes]:
    pieces, start = [], 0
    while start < len(data):
        size = next(sizes)
        pieces.append(data[start : start + size])
        start += size
    return pieces


def assert_partition(data: bytes, found: list[Record]) -> None:
    """Spans are in order, do not overlap, and leave out nothing but blank records; every number is right."""
    body = len(HEADER)
    position = body
    for index, record in enumerate(found):
        place = record.place
        assert place.row_index == index
        assert position <= place.start < place.end <= len(data)
        assert_blank(data[position : place.start])
        assert record.raw == data[place.start : place.end]
        assert place.line_number == 1 + len(LINE_END.findall(data, 0, place.start))
        position = place.end
    assert_blank(data[position:])
    for before, after in itertools.pairwise(found):
        between = data[before.place.end : after.place.start]
        assert after.place.row_number == before.place.row_number + 1 + blank_records(between)
    if found:
        assert found[0].place.row_number == 2 + blank_records(data[body : found[0].place.start])


def assert_blank(gap: bytes) -> None:
    for row in csv.reader(io.StringIO(gap.decode(), newline="")):
        assert all(map(is_empty, row)), gap


def blank_records(gap: bytes) -> int:
    return sum(1 for _ in csv.reader(io.StringIO(gap.decode(), newline="")))


class TestRecords:
    def test_a_plain_file(self) -> None:
        found = read(HEADER + b"C-1,Ada,5\nC-2,Bela,6\n")
        assert [record.cells for record in found] == [("C-1", "Ada", "5"), ("C-2", "Bela", "6")]
        assert [record.place for record in found] == [Place(0, 2, 2, 43, 53), Place(1, 3, 3, 53, 64)]
        assert [record.raw for record in found] == [b"C-1,Ada,5\n", b"C-2,Bela,6\n"]

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_any_line_end_ends_a_record(self, end: bytes) -> None:
        data = HEADER.replace(b"\n", end) + b"C-1,Ada,5" + end + b"C-2,Bela,6" + end
        found = read(data)
        assert [record.cells for record in found] == [("C-1", "Ada", "5"), ("C-2", "Bela", "6")]
        assert [record.place.line_number for record in found] == [2, 3]
        assert found[1].raw == b"C-2,Bela,6" + end

    def test_line_ends_may_be_mixed_and_cells_may_span_lines(self) -> None:
        data = HEADER + b'C-1,"Ada\r\nof\rthe\nhill",5\r\nC-2,Bela,6\rC-3,Caro,7\n\r\n"C-\n4",Dimo,8\r\rC-5,Esra,9'
        found = read(data)
        assert [(record.place.line_number, record.place.row_number) for record in found] == [
            (2, 2), (6, 3), (7, 4), (9, 6), (12, 8),
        ]  # fmt: skip
        assert found[0].cells == ("C-1", "Ada\r\nof\rthe\nhill", "5")
        assert found[3].cells == ("C-\n4", "Dimo", "8")
        assert_partition(data, found)

    def test_the_last_line_needs_no_end(self) -> None:
        assert cells(HEADER + b"C-1,Ada,5") == [("C-1", "Ada", "5")]

    def test_quotes_hold_delimiters_line_ends_and_doubled_quotes(self) -> None:
        assert cells(HEADER + b'"C-1","Ada ""the"", wife\n","1,234.50"\n"","",x\n') == [
            ("C-1", 'Ada "the", wife\n', "1,234.50"),
            ("", "", "x"),
        ]

    def test_a_quote_inside_a_cell_is_a_character(self) -> None:
        assert cells(HEADER + b'C-1,6" pipe,5\nC-2,O"Brien",6\n') == [("C-1", '6" pipe', "5"), ("C-2", 'O"Brien"', "6")]

    def test_blanks_are_left_to_the_contract(self) -> None:
        assert cells(HEADER + b" C-1 ,\tAda , 5\n") == [(" C-1 ", "\tAda ", " 5")]

    def test_a_nul_is_a_character_of_its_cell(self) -> None:
        assert cells(HEADER + b"C-1,A\x00da,5\n") == [("C-1", "A\x00da", "5")]

    @pytest.mark.parametrize("blank", [b"", b" ", b",,", b",,,,,", b'"",,""', b" , \t,", b"NA,n/a,-", b"null"])
    def test_a_record_of_empty_cells_is_no_row_and_is_counted(self, blank: bytes) -> None:
        data = HEADER + b"C-1,Ada,5\n" + blank + b"\nC-2,Bela,6\n"
        reader = CsvReader(iter([data]), ROOMY)
        places = [record.place for record in all_records(reader)]
        assert [place.row_index for place in places] == [0, 1]
        assert [place.row_number for place in places] == [2, 4]
        assert reader.reading()["skipped_records"] == 1

    def test_surplus_empty_cells_are_dropped_and_counted(self) -> None:
        reader = CsvReader(iter([HEADER + b"C-1,Ada,5,,\nC-2,Bela,6, \n"]), ROOMY)
        assert len(all_records(reader)) == 2
        assert reader.reading()["surplus_empty_cells"] == 3
        assert cells(HEADER + b"C-1,Ada,5,,\n") == [("C-1", "Ada", "5")]

    @pytest.mark.parametrize("delimiter", [b",", b"\t", b";", b"|"])
    def test_the_delimiter_is_that_of_the_header(self, delimiter: bytes) -> None:
        data = HEADER.replace(b",", delimiter) + delimiter.join([b"C-1", b"A,d\ta;|", b"5"]).replace(
            delimiter + b"a", b"a"
        )
        reader = CsvReader(iter([data]), ROOMY)
        assert reader.reading()["delimiter"] == delimiter.decode()
        assert len(reader.mapping.headers) == 3

    def test_cells_of_a_record_are_read_again_from_its_bytes(self) -> None:
        data = HEADER + b'C-1,"A""d,\na",5,,\r\nC-2,Bela,6'
        reader = CsvReader(iter([data]), ROOMY)
        list(reader.blocks())
        assert [reader.cells_of(record.raw) for record in read(data)] == [record.cells for record in read(data)]


class TestHeaders:
    def test_a_byte_order_mark_and_blank_records_may_stand_before_it(self) -> None:
        data = b"\xef\xbb\xbf\r\n,,\r\n" + HEADER + b"C-1,Ada,5\n"
        (record,) = read(data)
        assert (record.place.line_number, record.place.row_number) == (4, 4)
        assert CsvReader(iter([data]), ROOMY).reading()["header_line"] == 3

    def test_its_columns_are_published_as_raw_data_names_them(self) -> None:
        data = b" case_number ,defendant_name,judgment_amount,Note,Note,\nC-1,Ada,5,a,b,c\n"
        reading = CsvReader(iter([data]), ROOMY).reading()
        assert reading["headers"] == [" case_number ", "defendant_name", "judgment_amount", "Note", "Note", ""]
        assert reading["columns"] == [
            "case_number",
            "defendant_name",
            "judgment_amount",
            "Note",
            "Note (2)",
            "column 6",
        ]

    def test_it_may_span_lines(self) -> None:
        (record,) = read(b'case_number,"defendant\nname",judgment_amount\nC-1,Ada,5\n')
        assert (record.cells, record.place.line_number, record.place.row_number) == (("C-1", "Ada", "5"), 3, 2)

    def test_one_with_a_broken_quote_is_read_without_quotes(self) -> None:
        data = b'case_number,"defendant_name,judgment_amount\nC-1,Ada,5\n'
        assert cells(data) == [("C-1", "Ada", "5")]
        assert "broken quote" in CsvReader(iter([data]), ROOMY).reading()["warnings"][0]

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"", "EMPTY_FILE"),
            (b"\n\n,,\n", "EMPTY_FILE"),
            (b"a,b,c\n", "MISSING_COLUMNS"),
            (b"\xff\xfec\x00a\x00", "UNREADABLE_FILE"),
            (b"PK\x03\x04rest", "UNREADABLE_FILE"),
            (b"%PDF-1.4", "UNREADABLE_FILE"),
            (b"\x1f\x8b\x08", "UNREADABLE_FILE"),
            (b"\xe9\xe8\n", "UNREADABLE_FILE"),
            (b"x" * 70_000, "LIMIT_EXCEEDED"),
            (HEADER.rstrip() + b",x" * 100 + b"\n", "LIMIT_EXCEEDED"),
        ],
    )
    def test_a_file_without_one_is_refused(self, data: bytes, code: str) -> None:
        with pytest.raises(FileRefusedError) as refusal:
            CsvReader(iter([data]), ROOMY)
        assert refusal.value.code == code


class TestDamage:
    """In a clean file, at one record in its middle."""

    NUMBER = 100
    CLEAN = clean_file(200, seed=5)
    LINES = CLEAN.splitlines(keepends=True)
    LINE = LINES[1 + NUMBER]

    def assert_costs_only_itself(self, line: bytes) -> list[Record]:
        """The records of the file with this line in place of the one in its middle; the others must be as they were."""
        data = b"".join([*self.LINES[: 1 + self.NUMBER], line, *self.LINES[2 + self.NUMBER :]])
        found, clean = read(data), read(self.CLEAN)
        others = {record.raw: record.cells for record in found}
        for record in clean[: self.NUMBER] + clean[self.NUMBER + 1 :]:
            assert others.get(record.raw) == record.cells, f"lost with {line!r}: {record.raw!r}"
        assert sum(record.cells is None for record in found) <= 1
        assert b"".join(record.raw for record in found) == data[len(self.LINES[0]) :]
        return found

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b"C-1,Harrow\n", "found 2 fields, expected the header's 9"),
            (b"C-1,a,b,1.00,,,,,,surplus\n", "found 10 fields, expected the header's 9"),
            (b"C-1,a,b,1,234.50,,,,,\n", None),
            (b"C-1,a,b,1,234.50,,,,x,\n", None),
            (b'C-1,"a,b,1.00,2024-01-31,x,y,z,open\n', "quote"),
            (b'"C-1,a,b,1.00,2024-01-31,x,y,z,open\n', "quote"),
            (b'C-1,a,b,1.00,2024-01-31,x,y,z,"open\n', "quote"),
            (b'C-1,"a"b,c,1.00,2024-01-31,x,y,z,open\n', "closing quote inside a cell"),
            (b'C-1,"a" ,c,1.00,2024-01-31,x,y,z,open\n', "closing quote inside a cell"),
            (b'C-1,"a""b,c,1.00,2024-01-31,x,y,z,open\n', "quote"),
            (b"C-1,a\xff,b,1.00,2024-01-31,x,y,z,open\n", "not UTF-8"),
            (b"C-1,caf\xe9,b,1.00,2024-01-31,x,y,z,open\n", "not UTF-8"),
            (b"C-1,a\xed\xa0\x80,b,1.00,2024-01-31,x,y,z,open\n", "not UTF-8"),
            (b'"\n', "quote"),
            (b'"""\n', "quote"),
            (b"x\n", "found 1 fields"),
            (b'C-1,"a\nb,c,1.00,2024-01-31,x,y,z,open\n', "quote"),
        ],
    )
    def test_it_is_a_parse_error_of_its_own(self, line: bytes, problem: str | None) -> None:
        found = self.assert_costs_only_itself(line)
        if problem is not None:
            (lost,) = [record for record in found if record.cells is None]
            assert lost.problem is not None
            assert problem in lost.problem
            assert lost.raw == line

    def test_a_quote_put_anywhere_costs_one_row_at_most(self) -> None:
        for place in range(len(self.LINE)):
            self.assert_costs_only_itself(self.LINE[:place] + b'"' + self.LINE[place:])

    def test_a_byte_taken_from_anywhere_costs_one_row_at_most(self) -> None:
        for place in range(len(self.LINE) - 1):
            self.assert_costs_only_itself(self.LINE[:place] + self.LINE[place + 1 :])

    def test_a_bad_byte_put_anywhere_costs_one_row_at_most(self) -> None:
        for place in range(len(self.LINE)):
            self.assert_costs_only_itself(self.LINE[:place] + b"\xff" + self.LINE[place:])

    def test_a_line_cut_anywhere_costs_one_row_at_most(self) -> None:
        for place in range(1, len(self.LINE)):
            self.assert_costs_only_itself(self.LINE[:place] + b"\n")

    def test_a_delimiter_put_anywhere_costs_one_row_at_most(self) -> None:
        for place in range(len(self.LINE)):
            self.assert_costs_only_itself(self.LINE[:place] + b"," + self.LINE[place:])


fragments = st.lists(
    st.sampled_from([
        b"C-1,Ada,5", b"C-2,Bela,6\n", b"C-3,Caro,7\r\n", b"C-4,Dimo,8\r", b'"', b'""', b'"x"', b",", b"\n", b"\r\n", b"\r",
        b'C-5,"a\nb",9\n', b'C-6,"a,""b""",1\n', b",,\n", b"NA,-,\n", b"\xff", b"\xc3\xa9", b" ", b"x", b'"a', b'a"', b"\x00",
        b'C-7,"open,1\n', b"C-8,short\n", b"C-9,too,many,cells\n", b"C-10,a,b,,\n", b'"C-11",x,"y"\n',
    ]),
    max_size=30,
).map(b"".join)  # fmt: skip
"""What may follow a header: rows, and anything that can happen to them."""


class TestNothingIsLost:
    @settings(deadline=None, max_examples=300)
    @given(fragments)
    @example(b'"')
    @example(b'C-1,"a\n')
    @example(b'\r"\r\n')
    @example(b'C-5,"a\nb",9\nC-7,"open,1\nC-2,Bela,6\n')
    def test_spans_cover_every_byte_once_but_for_blank_records(self, body: bytes) -> None:
        data = HEADER + body
        found = read(data)
        assert_partition(data, found)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200))
    def test_any_bytes_at_all_are_read(self, body: bytes) -> None:
        for record in read(HEADER + body):
            assert (record.cells is None) == (record.problem is not None)
            if record.cells is not None:
                assert len(record.cells) == 3

    @settings(deadline=None, max_examples=300)
    @given(fragments)
    def test_accepted_records_read_alone_are_the_same(self, body: bytes) -> None:
        reader = CsvReader(iter([HEADER + body]), ROOMY)
        for record in read(HEADER + body):
            if record.cells is not None:
                assert reader.cells_of(record.raw) == record.cells


class TestCuts:
    """However the bytes come, and wherever the reader's window ends, the result is the same."""

    @pytest.fixture(autouse=True)
    def _small_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(window, "_WINDOW_BYTES", 1)

    def outcome(self, pieces: Sequence[bytes], limits: Limits) -> tuple[list[Record], str | None]:
        """The records up to where the file is refused, and the refusal."""
        found: list[Record] = []
        try:
            reader = CsvReader(iter(pieces), limits)
            for block in reader.blocks():
                found += records_of(block)
        except FileRefusedError as refusal:
            return sorted(found), str(refusal)
        return sorted(found), None

    @settings(deadline=None, max_examples=300)
    @given(fragments, st.randoms(use_true_random=False), st.sampled_from([48, 64, 100]))
    @example(b'C-1,"a\nb",' + b"x" * 300 + b"\n", random.Random(1), 64)
    @example(b'C-1,"a\nb","c\n",' + b'"d\n",' * 40, random.Random(1), 64)
    @example(b'C-7,"open,1\n' * 30, random.Random(1), 64)
    def test_the_records_do_not_depend_on_how_the_bytes_are_cut(
        self, body: bytes, chance: random.Random, longest: int
    ) -> None:
        limits = Limits(max_record_bytes=longest, max_columns=100)
        data = HEADER + body
        whole = self.outcome([data], limits)
        sizes = iter(lambda: chance.choice([1, 2, 3, 7, 30, 200]), None)
        assert self.outcome(pieces_of(data, sizes), limits) == whole

    def test_a_file_is_read_no_further_than_it_is_needed(self) -> None:
        given_out = 0

        def pieces() -> Iterator[bytes]:
            nonlocal given_out
            yield HEADER
            for _ in range(1_000):
                given_out += 1
                yield b"C-1,Ada,5\n" * 10

        next(CsvReader(pieces(), Limits(1_024, 100)).blocks())
        assert given_out < 200


class TestLimits:
    def test_a_line_over_the_limit_refuses_the_file_with_what_came_before(self) -> None:
        reader = CsvReader(iter([HEADER + b"C-1,Ada,5\nC-2,x\n" + b"x" * 2_000]), Limits(1_024, 100))
        blocks = reader.blocks()
        assert [record.cells for record in records_of(next(blocks))] == [("C-1", "Ada", "5"), None]
        with pytest.raises(FileRefusedError, match=r"LIMIT_EXCEEDED: Line 4 is longer than 1,024 bytes"):
            next(blocks)

    def test_a_quoted_record_over_the_limit_costs_only_itself(self) -> None:
        swallowing = b'C-2,"' + b"many words\n" * 200
        found = read(HEADER + b"C-1,Ada,5\n" + swallowing + b"C-3,Caro,7\n", Limits(1_024, 100))
        assert (found[0].cells, found[-1].cells) == (("C-1", "Ada", "5"), ("C-3", "Caro", "7"))
        assert all(len(record.raw) <= 1_024 for record in found)
        assert b"".join(record.raw for record in found[1:-1]) == swallowing


texts = st.text(alphabet=st.sampled_from("aB1 ,;\"'\n\r\té漢\U0001f600|-"), max_size=8)


class TestAgainstPythonsReader:
    @settings(deadline=None, max_examples=250)
    @given(
        st.lists(st.tuples(texts, texts, texts), max_size=12),
        st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from([",", ";", "\t", "|"]),
    )
    def test_a_well_formed_file_is_read_as_python_reads_it(
        self, rows: list[tuple[str, ...]], quoting: int, end: str, delimiter: str
    ) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, quoting=quoting, lineterminator=end, delimiter=delimiter)  # type: ignore[arg-type]
        writer.writerow(["case_number", "defendant_name", "judgment_amount"])
        writer.writerows(rows)
        expected = list(csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter))[1:]
        # Python leaves a line end unquoted that is not the writer's own.
        assume([tuple(row) for row in expected] == rows)
        found = read(text.getvalue().encode())
        assert [record.cells for record in found] == [row for row in rows if not all(map(is_empty, row))]


HOSTILE = {
    "quotes": b'"',
    "lone quotes": b'"\n',
    "pairs": b'""\n',
    "three quotes": b'"""\n',
    "open quotes": b'C-1,"open,5\n',
    "quotes that meet": b'C-1,"\n',
    "closing junk": b'C-1,"a"b,5\n',
    "junk over lines": b'C-1,"a\nb"c,5\n',
    "many cells over lines": b'"a\n",',
    "delimiters": b",",
    "empty lines": b"\n",
    "carriage returns": b"\r",
    "short lines": b"x\n",
    "short lines behind an open quote": b'"x\n' + b"y\n" * 20,
    "rows swallowed by a quote": b'C-1,"a\nC-2,b,6\nC-3,c",7\n',
    "escaped quotes over lines": b'C-1,"""\n"",""\n',
    "bad bytes": b"\xff,\xff,\xff\n",
    "NULs": b"\x00,\x00,\x00\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_takes_linear_time(kind: str) -> None:
    """Four times the bytes take about four times as long, nowhere near sixteen."""
    limits = Limits(max_record_bytes=1024 * 1024, max_columns=100)

    def seconds(size: int) -> float:
        data = HEADER + HOSTILE[kind] * (size // len(HOSTILE[kind]))
        best = float("inf")
        for _ in range(2):
            began = time.process_time()
            for block in CsvReader(iter([data]), limits).blocks():
                del block
            best = min(best, time.process_time() - began)
        return best

    small, large = seconds(20_000), seconds(80_000)
    assert large < 9 * small + 0.1


class TestTailsOfQuotedCells:
    """The last line of a quoted cell may look like a record of its own; it never is one."""

    def test_the_tail_of_a_record_with_too_many_fields_is_no_record(self) -> None:
        damaged, good = read(HEADER + b'C,"p\nq",1,2\nD,d,1\n')
        assert (damaged.cells, damaged.raw) == (None, b'C,"p\nq",1,2\n')
        assert good.cells == ("D", "d", "1")

    def test_the_tail_of_a_well_formed_cell_is_no_swallowed_row(self) -> None:
        (block,) = CsvReader(iter([HEADER + b'A,"d\ne, f",1\n']), ROOMY).blocks()
        (row,) = block.rows
        assert (row.cells, row.continuations) == (("A", "d\ne, f", "1"), ())

    def test_a_whole_line_inside_a_quoted_cell_is_offered_as_a_swallowed_row(self) -> None:
        (block,) = CsvReader(iter([HEADER + b'A,"d\nB,b,2\ne",1\n']), ROOMY).blocks()
        (row,) = block.rows
        assert row.continuations == (("B", "b", "2"),)

    def test_bytes_that_are_no_text_leave_the_record_split_for_reading(self) -> None:
        (block,) = CsvReader(iter([HEADER + b"B,d\xff,2\nB,\xff\n"]), ROOMY).blocks()
        assert [damaged.cells for damaged in block.damaged] == [("B", "d\\xff", "2"), None]

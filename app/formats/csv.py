"""Delimited text in UTF-8: plain lines many at a time, everything else record by record, a damaged record at its own cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from app.block import Block, Plain
from app.columns import TEMPLATE_VERSION, map_headers
from app.columns import Mapping as ColumnMapping
from app.errors import FileRefusedError
from app.formats.lines import Lines, find_lines, no_lines
from app.formats.records import LINE_END, Limits, Open, Scan, Scanner, Tally, is_utf8
from app.formats.window import Window

__all__ = ["CsvReader", "Limits"]

BLOCK_BYTES = 2 * 1024 * 1024
"""So much of a file is checked at once."""
_BLOCK_RECORDS = 16_384
"""Most records read one by one in a block: progress is shown after each."""
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = (b",", b"\t", b";", b"|")
_CR, _LF = b"\r\n"
_SIGNATURES = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)


class CsvReader:
    """Reads one delimited file. Opening reads the header.

    ``by_record`` reads it record by record throughout: slower, with the same result, and with other code.
    Raises FileRefusedError: UNREADABLE_FILE, LIMIT_EXCEEDED, MISSING_COLUMNS, EMPTY_FILE (not even a header).
    """

    mapping: ColumnMapping

    def __init__(self, pieces: Iterator[bytes], limits: Limits, *, by_record: bool = False) -> None:
        self._limits = limits
        self._by_record = by_record
        self._tally = Tally()
        # A damaged record may reach as far as the limit, and the record behind it is scanned to find its end.
        self._window = Window(pieces, 2 * limits.max_record_bytes + 4)
        self._window.fill()
        self._encoding = "utf-8"
        self._headers_found: list[str] = []
        try:
            self._refuse_other_formats()
            self._header_line = self._read_header()
        except FileRefusedError as refusal:
            refusal.reading = self._reading_so_far()
            raise
        self._width = len(self.mapping.headers)
        self._scanner = self._scanner_of(self._delimiter, self._width)
        self._broken: Open | None = None

    def blocks(self) -> Iterator[Block]:
        """As Reader.blocks; what was read before a limit was met comes first."""
        window = self._window
        while not window.exhausted():
            window.fill()
            block = Block(window.data, window.offset)
            refusal: FileRefusedError | None = None
            try:
                self._fill_block(block)
            except FileRefusedError as found:
                refusal = found
            if refusal is not None or window.exhausted():
                self._close_broken(block)
            window.hold(None if self._broken is None else self._broken.place.start)
            yield block
            if refusal is not None:
                raise refusal

    def bytes_read(self) -> int:
        return self._window.offset + self._window.position

    def cells_of(self, raw: bytes) -> tuple[str, ...]:
        window = Window(iter((raw,)), len(raw) + 1)
        window.fill()
        scan = Scanner(window, Tally(), self._limits, self._delimiter, self._width).scan(0, None)
        return tuple(cell.decode() for cell in scan.cells[: self._width])

    def reading(self) -> Mapping[str, Any]:
        headers = self.mapping.headers
        return {
            "container": "csv",
            "encoding": self._encoding,
            "delimiter": self._delimiter.decode(),
            "header_line": self._header_line,
            "headers": list(headers),
            "columns": list(self.mapping.keys),
            "mapping": {name: headers[column] for name, column in self.mapping.columns.items()},
            "unmapped_headers": self.mapping.unmapped,
            "template_version": TEMPLATE_VERSION,
            "skipped_records": self._tally.blank_records,
            "surplus_empty_cells": self._tally.surplus_empty_cells,
            "warnings": self._tally.warnings,
        }

    def _reading_so_far(self) -> dict[str, object]:
        known: dict[str, object] = {
            "container": "csv",
            "encoding": self._encoding,
            "skipped_records": self._tally.blank_records,
            "warnings": self._tally.warnings,
        }
        if self._headers_found:
            known.update(header_line=self._tally.line_number, headers=self._headers_found)
        return known

    def _refuse_other_formats(self) -> None:
        data = self._window.data
        if data.startswith(_BOM):
            self._encoding = "utf-8-sig"
            self._window.position = len(_BOM)
        for signature, name in _SIGNATURES:
            if data.startswith(signature):
                raise FileRefusedError(
                    "UNREADABLE_FILE", f"The file is {name}, expected CSV text in UTF-8: export it as CSV (UTF-8)."
                )

    def _read_header(self) -> int:
        """Find the header, the first record that is not blank, with the delimiter under which it has the columns."""
        window, tally = self._window, self._tally
        while True:
            window.fill()
            if window.exhausted():
                raise FileRefusedError("EMPTY_FILE", "The file is empty: it has neither a header nor data rows.")
            line = self._scanner_of(b",", 0).line_at(window.position)
            if line.strip(b' \t,;|"\r\n') or b'"' in line:
                break
            window.position += len(line)
            tally.line_number += 1
            tally.row_number += 1
            tally.blank_records += 1
        start, header_line = window.position, tally.line_number
        refusal: FileRefusedError | None = None
        for delimiter in _DELIMITERS:
            headers, end, warnings = self._split_header(start, delimiter)
            self._headers_found = self._headers_found or headers
            if len(headers) > self._limits.max_columns:
                raise FileRefusedError(
                    "LIMIT_EXCEEDED",
                    f"The header has {len(headers):,} columns, at most {self._limits.max_columns:,} are read.",
                )
            try:
                mapping = map_headers(headers)
            except FileRefusedError as problem:
                refusal = refusal or self._worded(problem, line)
                continue
            self.mapping, self._delimiter = mapping, delimiter
            tally.warnings += warnings
            tally.warnings += [f"column {name!r} is not used: another one holds its field" for name in mapping.losers]
            tally.line_number += len(LINE_END.findall(window.data, start, end))
            tally.row_number += 1
            window.position = end
            return header_line
        raise refusal or FileRefusedError("UNREADABLE_FILE", "The file has no header.")

    def _worded(self, refusal: FileRefusedError, line: bytes) -> FileRefusedError:
        try:
            if "\x00" not in line.decode():
                return refusal
        except UnicodeDecodeError:
            pass
        return FileRefusedError(
            "UNREADABLE_FILE", "The first line is not text in UTF-8, expected a header: export the file as CSV (UTF-8)."
        )

    def _split_header(self, start: int, delimiter: bytes) -> tuple[list[str], int, list[str]]:
        scan = self._scanner_of(delimiter, 0).scan(start, width=None)
        warnings = []
        if scan.problem:
            line = self._scanner_of(b",", 0).line_at(start)
            scan = Scan(line.rstrip(b"\r\n").replace(b'"', b"").split(delimiter), start + len(line))
            warnings.append("the header has a broken quote; its columns were split without regard to quotes")
        if any(not is_utf8(cell) for cell in scan.cells):
            warnings.append("a header is not UTF-8; its other bytes stand as \\xNN")
        # NUL is shown, for the database takes none.
        headers = [cell.decode(errors="backslashreplace").replace("\x00", "\u2400") for cell in scan.cells]
        return headers, scan.end, warnings

    def _scanner_of(self, delimiter: bytes, width: int) -> Scanner:
        return Scanner(self._window, self._tally, self._limits, delimiter, width)

    def _fill_block(self, block: Block) -> None:
        """Take plain lines by the stretch and scan the others, until the window has to be filled."""
        window = self._window
        behind = min(window.position + BLOCK_BYTES, len(window.data))
        lines = (
            no_lines(window.position, self._width)
            if self._by_record
            else find_lines(
                window.data,
                window.position,
                behind,
                self._delimiter[0],
                self._width,
                ended=window.ended and behind == len(window.data),
                longest=self._limits.max_record_bytes,
            )
        )
        taken = _Stretches()
        try:
            self._take(block, lines, taken, behind)
        finally:
            # Also what was read before a limit was met.
            block.plain = taken.records(lines, window.data)

    def _take(self, block: Block, lines: Lines, taken: _Stretches, behind: int) -> None:
        window, scanner = self._window, self._scanner
        line = 0
        while window.position < behind:
            doubtful = lines.next_doubtful(line)
            if doubtful > line:
                self._close_broken(block)
                taken.add(line, doubtful, self._tally)
                window.position = lines.start_of(doubtful)
                line = doubtful
                continue
            # A line that the block cuts off stands whole in the next one.
            if window.position >= lines.stop and behind < len(window.data) and len(lines):
                return
            if scanner.must_see_more() or len(block.rows) + len(block.damaged) >= _BLOCK_RECORDS:
                return
            self._broken = scanner.step(block, self._broken)
            line = line + 1 if lines.start_of(line + 1) == window.position else lines.at(window.position)

    def _close_broken(self, block: Block) -> None:
        if self._broken is not None:
            self._scanner.close(block, self._broken)
            self._broken = None


class _Stretches:
    """Runs of plain lines, each with the place of its first record."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, int, int, int]] = []

    def add(self, first: int, behind: int, tally: Tally) -> None:
        """Take the lines from ``first`` up to before ``behind`` as records."""
        self._runs.append((first, behind, tally.row_index, tally.line_number, tally.row_number))
        count = behind - first
        tally.row_index += count
        tally.line_number += count
        tally.row_number += count

    def records(self, lines: Lines, data: bytes) -> Plain | None:
        """All lines that were taken."""
        if not self._runs:
            return None
        runs = np.array(self._runs, np.int64)
        counts = runs[:, 1] - runs[:, 0]
        step = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        line = np.repeat(runs[:, 0], counts) + step
        # The ends of a record stand one behind the other: they are copied as one piece.
        pieces = np.ndarray((len(lines.ends) - lines.width + 1,), f"V{8 * lines.width}", lines.ends, strides=(8,))
        ends = pieces[lines.last[line] - (lines.width - 1)].view(np.int64).reshape(len(line), lines.width)
        starts = lines.starts[line]
        record_ends = ends[:, -1] + 1
        if lines.has_returns:
            # The CR before an LF belongs to the line end.
            octets = np.frombuffer(data, np.uint8)
            final = ends[:, -1]
            ends[:, -1] -= (octets[final] == _LF) & (octets[final - 1] == _CR)
        row_index, line_number, row_number = (np.repeat(runs[:, column], counts) + step for column in (2, 3, 4))
        return Plain(starts, ends, record_ends, row_index, line_number, row_number, lines.stains)

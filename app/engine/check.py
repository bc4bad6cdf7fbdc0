"""Checking: every row of a file against the contract, each refused one explained and kept with its exact bytes."""

from __future__ import annotations

import datetime as dt
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from uuid import UUID

from app.block import Block, Reader
from app.engine.judge import Checked, Judge
from app.engine.spool import ErrorSpool, RowSpool, Spool
from app.rows import RowError

Advance = Callable[[int, int], None]
"""Called with rows checked and bytes read so far; raises to end the attempt."""

_THREADS = 1
_AHEAD = 3


@dataclass(slots=True)
class Findings:
    """What the check of a whole file found. ``rows`` and ``errors`` live as long as their spool."""

    rows: RowSpool
    errors: ErrorSpool
    total: int = 0
    cents_valid: int = 0
    empty_words: Counter[str] = field(default_factory=Counter)
    error_counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def into(cls, spool: Spool) -> Findings:
        """Empty findings on the spool's disk."""
        findings = cls(RowSpool(spool.folder), ErrorSpool(spool.folder / "errors"))
        spool.closing(findings.rows.close)
        spool.closing(findings.errors.close)
        return findings

    @property
    def valid(self) -> int:
        return self.rows.count

    @property
    def invalid(self) -> int:
        return self.errors.count

    @property
    def dollars_valid(self) -> Decimal:
        return Decimal(self.cents_valid) / 100

    def refuse(self, error: RowError) -> None:
        """Keep one refused row."""
        self.errors.append(error.octets)
        self.error_counts[error.code] += 1

    def add(self, checked: Checked) -> None:
        """Keep what was found in one block."""
        if checked.accepted is not None:
            self.rows.add(checked.accepted)
        for error in checked.refused:
            self.refuse(error)
        self.total += checked.total
        self.cents_valid += checked.cents
        self.empty_words.update(checked.empty_words)


def check(findings: Findings, reader: Reader, *, batch_id: UUID, today: dt.date, advance: Advance) -> None:
    """Check every row into ``findings``, which keep what was read before a file is refused half-way.

    ``today`` is the batch's. Raises FileRefusedError (LIMIT_EXCEEDED) from the reader, OSError where the spool's disk
    is full, and whatever ``advance`` raises.
    """
    judge = Judge(reader.mapping, batch_id, today)
    blocks = _with_offsets(reader)
    # One block is checked here: a small file wants no thread.
    for block, read in islice(blocks, 1):
        findings.add(judge.check(block))
        advance(findings.total, read)
    pending: deque[tuple[Future[Checked], int]] = deque()
    # While one thread checks a block, this one finds the records of the next; where it gets ahead, it checks one too.
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        try:
            for block, read in blocks:
                behind = len(pending) >= _AHEAD and not pending[-1][0].done()
                pending.append((_now(judge, block) if behind else pool.submit(judge.check, block), read))
                while pending and (len(pending) > _AHEAD or pending[0][0].done()):
                    _collect(findings, *pending.popleft(), advance)
        finally:
            while pending:
                _collect(findings, *pending.popleft(), advance)


def _now(judge: Judge, block: Block) -> Future[Checked]:
    checked: Future[Checked] = Future()
    checked.set_result(judge.check(block))
    return checked


def _collect(findings: Findings, checking: Future[Checked], read: int, advance: Advance) -> None:
    findings.add(checking.result())
    advance(findings.total, read)


def _with_offsets(reader: Reader) -> Iterator[tuple[Block, int]]:
    for block in reader.blocks():
        yield block, reader.bytes_read()

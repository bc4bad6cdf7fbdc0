"""The cases on one server: raw COPY and the whole job in turns, a file of nothing but bad rows, a small file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import data, peers
from tests.benchmarks.results import BenchmarkError, PeerResult, Result
from tests.benchmarks.server import Server
from tests.benchmarks.targets import LARGE_ROWS, ROWS, SMALL_ROWS
from tests.benchmarks.worker import Worker

FULL_ROWS = {"random": ROWS, "sorted": ROWS, "present": ROWS, "differing": ROWS, "bad": ROWS, "large": LARGE_ROWS}
STANDING = ("present", "differing")
"""Cases whose rows stand already when the job begins."""

_WARM_ROWS = 2_000
_JOB_FIGURES = ("seconds", "check_ms", "load_ms")


def in_turns(
    server: Server, folder: Path, *, case: str, settings: str, rows: int, rounds: int, beside: Sequence[str] = ()
) -> Result:
    """Raw COPY's seconds over the whole job's, round by round; every other round begins with the other side.

    ``folder`` keeps the files for the next case that wants the same. ``beside`` names the peers. Raises BenchmarkError.
    """
    order = "sorted" if case == "sorted" else "random"
    path = _file(folder / f"{order}-{rows}.csv", rows, order=order)
    exported = folder / f"{order}-{rows}.rows"
    sent = _file(folder / f"differing-{rows}.csv", rows, bodies=3) if case == "differing" else path
    peer_rounds: dict[str, list[dict[str, float]]] = {name: [] for name in beside if not peers.missing(name)}
    jobs: list[dict[str, Any]] = []
    raws: list[float] = []
    with Worker(server.url, server.home) as worker:
        _warm(server, folder, worker)
        if case in STANDING:
            server.empty()
            _demand(worker.ingest(server.receive(path)), state="completed", total=rows)
            server.tidy()

        def job() -> None:
            _clear(server, case)
            batch = server.receive(sent)
            server.settle()
            answer = worker.ingest(batch)
            _demand(answer, state="completed", total=rows)
            if case in STANDING:
                _demand(answer, inserted=0)
            jobs.append(answer)

        def raw() -> None:
            _clear(server, case)
            raws.append(server.raw_copy(exported))

        sides: list[Callable[[], None]] = [job, raw]
        sides += [_peer(server, path, name, taken) for name, taken in peer_rounds.items()]
        for number in range(rounds):
            for side in reversed(sides) if number % 2 else sides:
                side()
                if not exported.exists():
                    server.export(exported)
    ratios = [raw / job["seconds"] for raw, job in zip(raws, jobs, strict=True)]
    return Result(
        case=case,
        settings=settings,
        rows=rows,
        rounds=rounds,
        full_size=rows == FULL_ROWS[case],
        figures={
            **_figures(rows, jobs),
            "raw_seconds": statistics.median(raws),
            "raw_rows_per_second": rows / statistics.median(raws),
            "ratio": statistics.median(ratios),
        },
        samples={"raw_seconds": raws, "seconds": [job["seconds"] for job in jobs], "ratios": ratios},
        peers=tuple(_peer_result(name, rows, raws, peer_rounds.get(name, [])) for name in beside),
    )


def all_bad(server: Server, folder: Path, *, settings: str, rows: int, rounds: int) -> Result:
    """A file whose every row is refused and kept. Raises BenchmarkError."""
    path = _file(folder / f"bad-{rows}.csv", rows, errors=1.0)
    jobs = []
    with Worker(server.url, server.home) as worker:
        _warm(server, folder, worker)
        for _ in range(rounds):
            server.empty()
            answer = worker.ingest(server.receive(path))
            _demand(answer, state="failed", total=rows, invalid=rows)
            jobs.append(answer)
    return Result(
        case="bad",
        settings=settings,
        rows=rows,
        rounds=rounds,
        full_size=rows == FULL_ROWS["bad"],
        figures=_figures(rows, jobs),
        samples={"seconds": [job["seconds"] for job in jobs]},
    )


def small(server: Server, folder: Path, *, settings: str, rounds: int) -> Result:
    """Small files with new case numbers, one behind the other, warm. Raises BenchmarkError."""
    path = folder / "small.csv"
    jobs = []
    with Worker(server.url, server.home) as worker:
        server.empty()
        _warm(server, folder, worker)
        for number in range(1, rounds + 1):
            data.write(path, SMALL_ROWS, seed=number, bodies=-number, first=number * SMALL_ROWS)
            answer = worker.ingest(server.receive(path))
            _demand(answer, state="completed", total=SMALL_ROWS)
            jobs.append(answer)
    figures = _figures(SMALL_ROWS, jobs)
    return Result(
        case="small",
        settings=settings,
        rows=SMALL_ROWS,
        rounds=rounds,
        full_size=True,
        figures={**figures, "job_ms": figures["seconds"] * 1000},
        samples={"seconds": [job["seconds"] for job in jobs]},
    )


def _clear(server: Server, case: str) -> None:
    if case in STANDING:
        server.forget_findings()
    else:
        server.empty()


def _file(path: Path, rows: int, **how: Any) -> Path:
    if not path.exists():
        data.write(path, rows, **how)
    return path


def _warm(server: Server, folder: Path, worker: Worker) -> None:
    path = _file(folder / "warm.csv", _WARM_ROWS, seed=99)
    for _ in range(3):
        worker.ingest(server.receive(path))


def _demand(answer: dict[str, Any], **expected: Any) -> None:
    """A run that did something else is not measured at all."""
    for name, value in expected.items():
        if answer[name] != value:
            raise BenchmarkError(f"the batch has {name} {answer[name]}, expected {value}: {answer}")


def _figures(rows: int, jobs: list[dict[str, Any]]) -> dict[str, float]:
    figures = {name: float(statistics.median(job[name] for job in jobs)) for name in _JOB_FIGURES}
    return {
        **figures,
        "rows_per_second": rows / figures["seconds"],
        "anonymous_mb": max(job["anonymous_mb"] for job in jobs),
        "resident_mb": max(job["resident_mb"] for job in jobs),
        **{name: jobs[-1][name] for name in ("inserted", "duplicate", "conflict", "invalid")},
    }


def _peer(server: Server, path: Path, name: str, taken: list[dict[str, float]]) -> Callable[[], None]:
    def side() -> None:
        server.empty()
        with server.identical_table("peer_judgments") as table:
            figures = peers.run(name, server.owner_url, path, table)
            taken.append({**figures, "inserted": server.count(table)})

    return side


def _peer_result(name: str, rows: int, raws: list[float], taken: list[dict[str, float]]) -> PeerResult:
    peer = peers.PEERS[name]
    if not taken:
        return PeerResult(name=name, way=peer.way, omits=peer.omits, missing=peers.missing(name))
    seconds = statistics.median(figures["seconds"] for figures in taken)
    return PeerResult(
        name=name,
        way=peer.way,
        omits=peer.omits,
        figures={
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "ratio": statistics.median(raw / figures["seconds"] for raw, figures in zip(raws, taken, strict=True)),
            "inserted": taken[-1]["inserted"],
            "anonymous_mb": max(figures["anonymous_mb"] for figures in taken),
            "resident_mb": max(figures["resident_mb"] for figures in taken),
        },
    )

"""What of the benchmark can be told without running it: its data, its verdicts, its options, its drawing."""

from __future__ import annotations

import csv
import io
import json
import os
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app.judgment import Judgment
from tests.benchmarks import data, peers
from tests.benchmarks.memory import MemoryWatch, memory_of_tree
from tests.benchmarks.options import BY_DEFAULT, CASES, parse
from tests.benchmarks.plot import Bar, Panel, axis, draw
from tests.benchmarks.report import as_json, as_markdown, panels, tables
from tests.benchmarks.results import PeerResult, Result, percentile
from tests.benchmarks.targets import TARGETS, measure

SVG = "{http://www.w3.org/2000/svg}"
ROWS = 20_000


def cells_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]


def result(case: str, *, settings: str = "stock", full_size: bool = True, **figures: float) -> Result:
    timed = {"seconds": 10.0, "rows_per_second": 1e5, "check_ms": 4e3, "load_ms": 6e3, "inserted": 9e5}
    return Result(
        case=case,
        settings=settings,
        rows=1_000_000,
        rounds=3,
        full_size=full_size,
        figures={**timed, "anonymous_mb": 120.0, "resident_mb": 170.0, **figures},
    )


def verdicts(*results: Result) -> dict[str, str]:
    return {each.target.work: each.verdict for each in measure(results) if each.value is not None}


def test_the_same_seed_gives_the_same_file() -> None:
    assert data.content(500, seed=3) == data.content(500, seed=3)
    assert data.content(500, seed=3) != data.content(500, seed=4)


def test_a_file_on_disk_is_the_one_in_memory(tmp_path: Path) -> None:
    data.write(tmp_path / "file.csv", 500, seed=3)
    assert (tmp_path / "file.csv").read_bytes() == data.content(500, seed=3)


def test_three_rows_in_a_hundred_are_wrong_and_two_are_duplicates() -> None:
    rows = cells_of(data.content(ROWS))
    distinct = {row[0] for row in rows}
    wrong = sum(line.rstrip("\n").endswith(data._WRONG) for line in data.records(ROWS))
    assert len(rows) == ROWS
    assert wrong / ROWS == pytest.approx(0.03, abs=0.005)
    assert (ROWS - len(distinct)) / ROWS == pytest.approx(0.02, abs=0.002)


def test_a_file_has_nine_columns_whose_first_seven_are_the_fields_of_a_judgment() -> None:
    assert len(data.HEADER.split(",")) == 9
    assert {len(row) for row in cells_of(data.content(500, errors=0.0))} == {9}
    assert len(Judgment._fields) == 7


def test_amounts_and_dates_come_in_several_forms() -> None:
    rows = cells_of(data.content(2_000, errors=0.0))
    assert {row[3][:1] for row in rows} >= {"$", "U", "1"}
    assert {"-" in row[4] for row in rows} == {True, False}
    assert "" in {row[4] for row in rows}


def test_a_sorted_file_is_in_the_order_of_the_index() -> None:
    keys = [row[0].encode() for row in cells_of(data.content(2_000, order="sorted"))]
    assert keys == sorted(keys)
    assert keys != [row[0].encode() for row in cells_of(data.content(2_000))]


def test_other_bodies_leave_the_accepted_case_numbers_as_they_are() -> None:
    one, other = (list(data.records(2_000, bodies=bodies)) for bodies in (2, 3))
    wrong = [[line.rstrip("\n").endswith(data._WRONG) for line in lines] for lines in (one, other)]
    assert wrong[0] == wrong[1]
    assert [line.partition(",")[0] for line in one] == [line.partition(",")[0] for line in other]
    assert one != other


def test_files_of_other_ranges_share_no_case_number() -> None:
    first, second = ({row[0] for row in cells_of(data.content(200, first=first))} for first in (0, 200))
    assert not first & second


@pytest.mark.parametrize(("ratio", "verdict"), [(1.5, "reached"), (1.49, "met"), (1.3, "met"), (1.29, "below")])
def test_a_ratio_is_judged(ratio: float, verdict: str) -> None:
    assert verdicts(result("random", ratio=ratio))["1M rows, random key order"] == verdict


@pytest.mark.parametrize(("milliseconds", "verdict"), [(40, "reached"), (41, "met"), (60, "met"), (61, "below")])
def test_a_time_is_judged_the_other_way_round(milliseconds: float, verdict: str) -> None:
    assert verdicts(result("small", job_ms=milliseconds))["5,000 rows in the engine, warm"] == verdict


def test_the_largest_memory_of_all_cases_is_judged() -> None:
    found = verdicts(result("random", ratio=1.4), result("bad", anonymous_mb=257.0))
    assert found["anonymous memory of the worker, any case"] == "below"
    assert found["anonymous memory, all rows bad"] == "below"


def test_memory_of_the_large_file_is_compared_with_that_of_the_smaller_one() -> None:
    name = "anonymous memory, 5M rows against 1M"
    assert verdicts(result("random", ratio=1), result("large", ratio=1, anonymous_mb=138.0))[name] == "met"
    assert verdicts(result("random", ratio=1), result("large", ratio=1, anonymous_mb=139.0))[name] == "below"
    assert name not in verdicts(result("random", ratio=1))


def test_another_size_than_the_targets_fails_nobody() -> None:
    (small,) = [
        each for each in measure([result("random", ratio=0.1, full_size=False)]) if each.target.cases == ("random",)
    ]
    assert (small.verdict, small.fails) == ("(below)", False)
    (full,) = [each for each in measure([result("random", ratio=0.1)]) if each.target.cases == ("random",)]
    assert (full.verdict, full.fails) == ("below", True)


def test_ratios_count_at_stock_settings_and_the_running_stack_at_its_own() -> None:
    found = verdicts(result("random", settings="local", ratio=9), result("client", settings="local", completed_ms=90))
    assert "1M rows, random key order" not in found
    assert found["5,000 rows, POST to completed"] == "reached"


def test_a_target_never_asks_for_less_than_its_least() -> None:
    assert all(target.verdict(target.reach) == "reached" for target in TARGETS if target.reach is not None)
    assert all(target.verdict(target.at_least) != "below" for target in TARGETS)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50, 99, 7)


def test_without_options_every_case_with_a_target_runs() -> None:
    options = parse([])
    assert options.cases == BY_DEFAULT
    assert {case for target in TARGETS for case in target.cases} == set(options.cases)
    assert (options.rows, options.large_rows, options.rounds, options.large_rounds) == (1_000_000, 5_000_000, 3, 2)
    assert (options.settings, options.peers, options.command) == (("stock", "local"), (), "make bench")


def test_cases_run_in_their_own_order_whatever_order_they_are_named_in() -> None:
    assert parse(["--cases", "many, random"]).cases == ("random", "many")


def test_a_quick_run_is_small_unless_a_size_is_named() -> None:
    assert parse(["--quick"]).rows < 100_000
    assert parse(["--quick", "--rows", "200,000"]).rows == 200_000


def test_the_command_of_a_run_names_what_changes_its_figures_and_no_file() -> None:
    options = parse(["--json", "some/where.json", "--quick", "--cases", "bad,random", "--peers=pandas"])
    assert options.command == 'make bench ARGS="--quick --cases bad,random --peers pandas"'
    assert options.json == Path("some/where.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cases", "all"],
        ["--cases", ","],
        ["--rows", "0"],
        ["--rounds", "many"],
        ["--peers", "excel"],
        ["--settings", "x"],
    ],
    ids=" ".join,
)
def test_an_option_that_is_not_understood_could_not_run(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(arguments)
    assert left.value.code == 2
    assert "found" in capsys.readouterr().err


def test_the_help_names_every_case_and_how_to_get_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert all(f"\n  {case} " in text for case in CASES)
    assert "pip install pandas duckdb adbc-driver-postgresql" in text


def test_a_peer_that_is_missing_is_shown_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _: None)
    assert peers.missing("pandas") == ".venv/bin/pip install pandas"
    assert not peers.missing("marshmallow")
    absent = PeerResult(name="pandas", way="to_sql", omits="", missing=peers.missing("pandas"))
    run = Result(case="random", settings="stock", rows=1, rounds=1, full_size=True, figures={}, peers=(absent,))
    shown = "\n".join(table.plain() for table in tables([_with_figures(run)]))
    assert "not installed" in shown
    assert ".venv/bin/pip install pandas" in shown


def _with_figures(run: Result) -> Result:
    return Result(**{**vars(run), "figures": result("random", ratio=1.4).figures})


@pytest.mark.parametrize("most", [0.3, 1.0, 1.36, 7, 60, 250, 1_000, 80_000, 123_456])
def test_an_axis_holds_the_largest_figure_in_a_few_even_steps(most: float) -> None:
    ticks = axis(most)
    steps = {round(after - before, 9) for before, after in pairwise(ticks)}
    assert ticks[0] == 0
    assert ticks[-2] < most <= ticks[-1]
    assert len(steps) == 1
    assert len(ticks) <= 8


def test_the_drawing_is_well_formed_and_its_bars_are_to_scale() -> None:
    bars = (Bar(label="a < b", value=1, text="1 & more", at_least=2, reach=3), Bar(label="b", value=2, text="2"))
    tree = ElementTree.fromstring(draw("A & B", [Panel("ratios", "times", bars), Panel("nothing", "ms", ())]))  # noqa: S314
    widths = [float(bar.get("width", "0")) for bar in tree.iter(f"{SVG}rect")]
    words = "".join(tree.itertext())
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert "a < b" in words
    assert "prefers-color-scheme: dark" in words
    assert "nothing" not in words


def test_a_run_is_drawn_and_written_whole() -> None:
    results = [
        result("random", ratio=1.4, raw_seconds=14.0, raw_rows_per_second=7e4),
        result("random", settings="local", ratio=1.3, raw_seconds=13.0, raw_rows_per_second=7e4),
        result("bad", rows_per_second=5e4),
        result("small", job_ms=50.0),
        result("client", settings="local", completed_ms=90.0, completed_p99_ms=120.0),
        result("many", settings="local", batches_per_second=30.0, get_p50_ms=5.0, get_p99_ms=30.0),
    ]
    page = as_markdown(results, {"memory": "4 GiB"}, "make bench")
    document = json.loads(as_json(results, {"memory": "4 GiB"}, "make bench"))
    assert [panel.bars != () for panel in panels(results)] == [True] * 5
    assert "| 1M rows, random key order | >= 1.30x | >= 1.50x | 1.40x | met |" in page
    assert len(document["results"]) == 6
    assert {each["work"] for each in document["targets"]} == {target.work for target in TARGETS}


def test_memory_is_that_of_this_process_and_its_children() -> None:
    with MemoryWatch(os.getpid()) as watch:
        anonymous, resident = memory_of_tree(os.getpid())
    assert 0 < anonymous < resident
    assert watch.resident_mb > 0


def test_a_process_that_has_ended_takes_no_memory() -> None:
    assert memory_of_tree(2**22 + 1) == (0, 0)


def test_the_benchmark_is_not_collected() -> None:
    assert not list(Path(data.__file__).parent.glob("test_*.py"))

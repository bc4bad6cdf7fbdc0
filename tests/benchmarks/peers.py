"""Other ways to bring the same file into the same table, each in a process of its own: ``peers NAME URL CSV TABLE``."""

from __future__ import annotations

import csv
import datetime as dt
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from app.judgment import Judgment, JudgmentSchema
from tests.benchmarks.memory import MemoryWatch
from tests.benchmarks.results import BenchmarkError

BATCH = UUID(int=1)
COLUMNS = (*Judgment._fields, "batch_id", "row_index")
"""What a peer writes; ids come from the sequence. The file's first seven columns stand in the order of Judgment's fields."""

_NAMES = ", ".join(COLUMNS)
_ALL_OR_NOTHING = "no error budget before the load, no lineage by line, no ledger"


@dataclass(frozen=True)
class Peer:
    """A way to load, the modules it needs beyond the installation, and what it leaves out."""

    way: str
    omits: str
    load: Callable[[str, Path, str], None]
    modules: tuple[str, ...] = ()
    install: str = ""


def missing(name: str) -> str:
    """The command that installs what the peer lacks; empty where it can run."""
    peer = PEERS[name]
    absent = [module for module in peer.modules if importlib.util.find_spec(module) is None]
    return f".venv/bin/pip install {peer.install}" if absent else ""


def run(name: str, url: str, path: Path, table: str) -> dict[str, float]:
    """Seconds without start and imports, and the peak of memory in MiB. Raises BenchmarkError."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", name, url, str(path), table]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with MemoryWatch(process.pid) as memory:
        answer, complaint = process.communicate()
    if process.returncode:
        raise BenchmarkError(f"the peer {name} failed: {complaint.strip().splitlines()[-1:]}")
    figures: dict[str, float] = json.loads(answer.splitlines()[-1])
    return {**figures, "anonymous_mb": memory.anonymous_mb, "resident_mb": memory.resident_mb}


def _copy(connection: psycopg.Connection[Any], table: str, rows: Iterable[Iterable[Any]]) -> None:
    with connection.cursor().copy(f"COPY {table} ({_NAMES}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(tuple(row))


def _marshmallow(url: str, path: Path, table: str) -> None:
    schema = JudgmentSchema(today=dt.datetime.now(dt.UTC).date())
    seen = set()

    def rows(file: Iterable[str]) -> Iterable[tuple[Any, ...]]:
        reader = csv.reader(file)
        width = len(next(reader))
        for row_index, cells in enumerate(reader):
            if len(cells) != width:
                continue
            found = schema.check(dict(zip(Judgment._fields, cells, strict=False)))
            if isinstance(found, Judgment) and found.case_number not in seen:
                seen.add(found.case_number)
                yield (*found, BATCH, row_index)

    with path.open(newline="", encoding="utf-8") as file, psycopg.connect(url) as connection:
        _copy(connection, table, rows(file))


def _pandas(url: str, path: Path, table: str) -> None:
    import pandas as pd

    from app.store.database import open_engine

    frame = pd.read_csv(path, dtype=str, keep_default_na=False, on_bad_lines="skip")
    # A record that is too short is filled up in silence.
    frame = frame[frame.iloc[:, -1].fillna("") != ""].iloc[:, : len(Judgment._fields)]
    frame.columns = list(Judgment._fields)
    frame["case_number"] = frame["case_number"].str.strip().str.upper()
    frame["judgment_amount"] = frame["judgment_amount"].str.replace(r"USD|[$,\s]", "", regex=True)
    written = frame["judgment_date"].str.replace(" 0:00", "", regex=False)
    dates = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    for form in ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y", "%d-%b-%Y"):
        open_ones = dates.isna() & (written != "")
        read = pd.to_datetime(written[open_ones], format=form, errors="coerce")
        dates[open_ones] = read.astype("datetime64[us]")
    good = (
        (frame["case_number"] != "")
        & ~frame["defendant_name"].isin(["", "N/A"])
        & frame["judgment_amount"].str.fullmatch(r"\d+(?:\.\d{1,2})?|\.\d{1,2}")
        & ((written == "") | (dates <= pd.Timestamp.now()))
    )
    frame["judgment_date"] = dates.dt.strftime("%Y-%m-%d").where(dates.notna(), None)
    frame["batch_id"], frame["row_index"] = str(BATCH), range(len(frame))
    frame = frame[good].drop_duplicates("case_number").replace({"": None})

    def by_copy(target: Any, connection: Any, keys: Any, rows: Any) -> None:
        _copy(connection.connection.driver_connection, target.schema + "." + target.name, rows)

    engine = open_engine(url, pool_size=1)
    schema, _, name = table.partition(".")
    frame.to_sql(name, engine, schema=schema, if_exists="append", index=False, method=by_copy, chunksize=100_000)
    engine.dispose()


_DUCKDB = """
    SELECT * FROM (
        SELECT DISTINCT ON (case_number) * FROM (
            SELECT upper(trim(#1)) AS case_number, nullif(trim(#2), '') AS plaintiff_name,
                nullif(nullif(trim(#3), ''), 'N/A') AS defendant_name,
                CASE WHEN regexp_full_match(trim(#4), '(USD )?\\$?[0-9,]+([.][0-9]{{1,2}})?')
                    THEN TRY_CAST(regexp_replace(#4, '[USD $,]', '', 'g') AS DECIMAL(14, 2)) END AS judgment_amount,
                try_strptime(replace(#5, ' 0:00', ''), ['%Y-%m-%d', '%m/%d/%Y', '%m/%d/%y', '%d-%b-%Y'])::DATE
                    AS judgment_date,
                nullif(trim(#6), '') AS court, nullif(trim(#7), '') AS county,
                '{batch}'::UUID AS batch_id, (row_number() OVER () - 1)::INTEGER AS row_index,
                coalesce(#5, '') = '' AS undated
            FROM read_csv({path}, header = true, all_varchar = true, ignore_errors = true, quote = '"')
        )
        WHERE case_number <> '' AND defendant_name IS NOT NULL AND judgment_amount IS NOT NULL
            AND (undated OR judgment_date <= current_date)
        ORDER BY case_number, row_index
    )
"""


def _duckdb(url: str, path: Path, table: str) -> None:
    import duckdb

    columns = ", ".join(COLUMNS)
    query = f"SELECT {columns} FROM ({_DUCKDB.format(batch=BATCH, path=_quoted(str(path)))})"
    connection = duckdb.connect()
    # It is not to look for its extension on the network.
    connection.execute("SET autoinstall_known_extensions = false")
    extension = _postgres_extension()
    if extension is None:
        found = connection.execute(query)
        with psycopg.connect(url) as target:
            while rows := found.fetchmany(10_000):
                _copy(target, table, rows)
        return
    connection.execute(f"LOAD {_quoted(str(extension))}")
    connection.execute(f"ATTACH {_quoted(url)} AS target (TYPE postgres)")
    connection.execute(
        f"INSERT INTO target.{table} (id, {columns}) SELECT row_number() OVER (), {columns} FROM ({query})"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _postgres_extension() -> Path | None:
    """DuckDB's postgres extension, where its wheel is installed for this very version."""
    import duckdb

    spec = importlib.util.find_spec("duckdb_extension_postgres_scanner")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place) / "extensions" / f"v{duckdb.__version__}" / "postgres_scanner.duckdb_extension"
        if file.exists():
            return file
    return None


_ARROW_DATES = (
    (r"^\d{4}-\d{2}-\d{2}$", "%Y-%m-%d"),
    (r"^\d{1,2}/\d{1,2}/\d{4}$", "%m/%d/%Y"),
    (r"^\d{1,2}/\d{1,2}/\d{2}$", "%m/%d/%y"),
    (r"^\d{1,2}-[A-Za-z]{3}-\d{4}$", "%d-%b-%Y"),
)


def _adbc(url: str, path: Path, table: str) -> None:
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    with path.open(encoding="utf-8") as file:
        names = next(csv.reader(file))
    read = arrow_csv.read_csv(
        path,
        parse_options=arrow_csv.ParseOptions(invalid_row_handler=lambda _: "skip"),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    cells = dict(zip(Judgment._fields, read.columns, strict=False))
    case = pc.utf8_upper(pc.utf8_trim_whitespace(cells["case_number"]))
    amount = pc.replace_substring_regex(cells["judgment_amount"], r"USD|[$, ]", "")
    priced = pc.match_substring_regex(amount, r"^[0-9]+(\.[0-9]{1,2})?$")
    dollars = pc.cast(pc.if_else(priced, amount, None), pa.decimal128(14, 2))
    written = pc.replace_substring(cells["judgment_date"], " 0:00", "")
    parts = []
    for form, code in _ARROW_DATES:
        fitting = pc.if_else(pc.match_substring_regex(written, form), written, None)
        parts.append(pc.strptime(fitting, format=code, unit="s", error_is_null=True))
    date = pc.cast(pc.coalesce(*parts), pa.date32())
    today = pa.scalar(dt.datetime.now(dt.UTC).date())
    named = pc.invert(pc.is_in(cells["defendant_name"], pa.array(["", "N/A"])))
    dated = pc.or_(pc.equal(written, ""), pc.fill_null(pc.less_equal(date, today), False))
    good = pc.and_(pc.and_(pc.not_equal(case, ""), named), pc.and_(pc.is_valid(dollars), dated))
    optional = {name: _null_if_empty(pc, cells[name]) for name in ("plaintiff_name", "court", "county")}
    chosen = pa.table(
        {
            "case_number": case,
            "plaintiff_name": optional["plaintiff_name"],
            "defendant_name": cells["defendant_name"],
            "judgment_amount": dollars,
            "judgment_date": date,
            "court": optional["court"],
            "county": optional["county"],
            # A uuid's bytes are the same on the wire.
            "batch_id": pa.array([BATCH.bytes] * len(read), pa.binary()),
            "row_index": pa.array(range(len(read)), pa.int32()),
        }
    ).filter(good)
    first = chosen.group_by("case_number").aggregate([("row_index", "min")])["row_index_min"]
    chosen = chosen.filter(pc.is_in(chosen["row_index"], first.combine_chunks()))
    schema, _, name = table.partition(".")
    with adbc.connect(url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(name, chosen, mode="append", db_schema_name=schema)
        connection.commit()


def _null_if_empty(pc: Any, column: Any) -> Any:
    return pc.if_else(pc.equal(column, ""), None, column)


PEERS: dict[str, Peer] = {
    "pandas": Peer(
        way="pandas.read_csv, to_sql with a COPY callable",
        omits="no bad row explained or kept, invisible characters pass, the whole file in memory; " + _ALL_OR_NOTHING,
        load=_pandas,
        modules=("pandas",),
        install="pandas",
    ),
    "marshmallow": Peer(
        way="csv module, JudgmentSchema row by row, COPY as text",
        omits="faults are found and dropped, a stray quote swallows the rows behind it; " + _ALL_OR_NOTHING,
        load=_marshmallow,
    ),
    "duckdb": Peer(
        way="DuckDB reads, casts and sorts; its postgres extension writes, else psycopg's COPY",
        omits="no bad row explained or kept, damaged records dropped or merged; " + _ALL_OR_NOTHING,
        load=_duckdb,
        modules=("duckdb",),
        install="duckdb",
    ),
    "adbc": Peer(
        way="pyarrow.csv, compute expressions, ADBC's binary COPY",
        omits="no bad row explained or kept, invisible characters pass, the whole file in memory; " + _ALL_OR_NOTHING,
        load=_adbc,
        modules=("adbc_driver_postgresql", "pyarrow"),
        install="adbc-driver-postgresql",
    ),
}


def _main(name: str, url: str, path: str, table: str) -> None:
    peer = PEERS[name]
    for module in peer.modules:
        importlib.import_module(module)
    started = time.perf_counter()
    peer.load(url, Path(path), table)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    _main(*sys.argv[1:])

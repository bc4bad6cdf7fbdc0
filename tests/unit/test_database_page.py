"""The page of the database names every table, column, view, state and migration, and none that is not there."""

import re
from pathlib import Path

import pytest

from app.batch import TRANSITIONS
from app.store.tables import metadata

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGE = (DOCS / "reference" / "database.md").read_text(encoding="utf-8")
MIGRATIONS = sorted((REPOSITORY / "migrations" / "versions").glob("*.py"))
VIEW = re.compile(r"^CREATE VIEW (\S+) .*?AS\nSELECT\n(.*?)\nFROM ", re.DOTALL | re.MULTILINE)
VIEWS = {name: body for path in MIGRATIONS for name, body in VIEW.findall(path.read_text(encoding="utf-8"))}


def section(name: str) -> str:
    """What stands under the heading of a table or a view."""
    found = re.search(rf"^### `{re.escape(name)}`\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"{name} has no section"
    return found[1]


def columns_of_view(body: str) -> list[str]:
    """The names of a select list: the last word of each item, commas inside brackets aside."""
    flat = body
    while (inner := re.sub(r"\([^()]*\)", "", flat)) != flat:
        flat = inner
    return [re.split(r"[\s.]+", item.strip())[-1] for item in flat.split(",")]


def test_the_sections_are_the_tables_and_the_views() -> None:
    assert re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE) == [*sections_of_tables(), *VIEWS]


def sections_of_tables() -> list[str]:
    order = ["intake.batches", "intake.row_errors", "intake.row_conflicts", "public.judgments", "ops.api_keys"]
    return [*order, *sorted(set(metadata.tables) - set(order))]


@pytest.mark.parametrize("name", sorted(metadata.tables))
def test_a_table_has_its_columns_with_their_nullability(name: str) -> None:
    found = re.findall(r"^\| `(\w+)` \| (.+?) \|", section(name), re.MULTILINE)
    nullable = {column: not kind.endswith(" not null") for column, kind in found}
    assert nullable == {column.name: bool(column.nullable) for column in metadata.tables[name].columns}
    assert list(nullable) == [column.name for column in metadata.tables[name].columns]


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_view_has_its_columns_in_their_order(name: str) -> None:
    named = re.findall(r"`(\w+)`", section(name).partition(": `")[2].join(["`", ""]))
    assert [column for column in dict.fromkeys(named) if column in columns_of_view(VIEWS[name])] == columns_of_view(
        VIEWS[name]
    )
    assert set(named) <= set(columns_of_view(VIEWS[name]))


def test_every_migration_has_its_line() -> None:
    assert re.findall(r"^\| `(\d{8}_\w+)` \|", PAGE, re.MULTILINE) == [path.stem for path in MIGRATIONS]


@pytest.mark.parametrize("page", ["reference/database.md", "explanation/architecture.md"])
def test_the_state_diagram_is_the_table_of_transitions(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    drawn = re.findall(r"^    (\w+) --> (\w+)", text, re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {(one.value, other.value) for one, others in TRANSITIONS.items() for other in others}

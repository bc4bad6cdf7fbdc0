"""The operators' pages name only what is there: settings, tables, columns, commands and their options, units that systemd takes."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import gunicorn.config
import pytest
from celery.bin.celery import celery as celery_command
from sqlalchemy import Engine, text

from app.cli import dragonfly
from app.errors import CATALOGUE
from app.settings import Settings, secret_variables
from monitoring.checks import CHECKS
from tests.acceptance.pages import REPOSITORY
from tests.commands_page import commands

PAGES = ("docs/RUNBOOK_OPS.md", "docs/SRE_SENTINEL_GUIDE.md", "docs/DEPLOYMENT.md")
TEXTS = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES}
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
UNIT = re.compile(r"`([\w-]+\.(?:service|timer))`(?:(?!```)[\s\S])*?```ini\n([\s\S]*?)```")
CHECKOUT, PROGRAMS = "/srv/dragonfly", "/srv/dragonfly/.venv/bin/"

VARIABLES = {entry.metadata["variable"] for entry in fields(Settings)}
FAMILIES = sorted({variable.partition("_")[0] for variable in VARIABLES if "_" in variable})
COMMANDS = {name.removeprefix("dragonfly").strip(): command for name, command in commands(dragonfly)}


def blocks(page: str, language: str) -> list[str]:
    return [content for kind, content in FENCED.findall(TEXTS[page]) if kind == language]


def quoted(page: str) -> list[str]:
    """What stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", TEXTS[page]))


@pytest.fixture(scope="module")
def names(owner_engine: Engine) -> set[str]:
    """Of the tables, views and functions with and without their schema, of their columns, and of the roles."""
    statement = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('intake', 'ops', 'public')
    UNION SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('intake', 'ops', 'public')
    UNION SELECT column_name FROM information_schema.columns WHERE table_schema IN ('intake', 'ops', 'public')
    UNION SELECT rolname FROM pg_roles
    """
    with owner_engine.connect() as connection:
        return set(connection.execute(text(statement)).scalars())


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_is_there(page: str) -> None:
    known = VARIABLES | {f"{variable}_FILE" for variable in secret_variables()}
    named = set(re.findall(rf"\b(?:{'|'.join(FAMILIES)})_[A-Z][A-Z_]*[A-Z]\b(?!\.md)", TEXTS[page]))
    assert named
    assert named - known - set(CATALOGUE) == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_table_and_view_is_there(page: str, names: set[str]) -> None:
    # A file of the repository is no table: its name has a slash before it.
    assert set(re.findall(r"(?<![\w/@.-])(?:intake|ops|public)\.\w+", TEXTS[page])) - names == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_name_in_the_prose_is_a_column_or_stands_in_a_block_that_is_run(page: str, names: set[str]) -> None:
    run = " ".join(blocks(page, "sql") + blocks(page, "sh"))
    states_and_words = set(re.findall(r"\w+", run)) | set(CHECKS) | names
    named = {word for word in quoted(page) if re.fullmatch(r"[a-z]+(?:_[a-z]+)+", word)}
    assert named - states_and_words == set()


def commands_in(page: str) -> Iterator[list[str]]:
    """The words of every call of ``dragonfly``, up to whatever ends it in a shell."""
    everything = quoted(page) + [
        content for kind, content in FENCED.findall(TEXTS[page]) if kind in ("sh", "ini", "cron")
    ]
    for line in "\n".join(everything).replace("\\\n", " ").splitlines():
        for call in re.findall(r"(?:^|[\s(=]|bin/)dragonfly ((?:[\w$\"*./{}:-]+ ?)+)", line):
            # An option's value may be anything; what has no letter or dash at its start is no word of ours.
            yield shlex.split(call.replace('"', ""))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_is_there(page: str) -> None:
    found = list(commands_in(page))
    assert found
    for words in found:
        place = 0
        name = ""
        while place < len(words) and f"{name} {words[place]}".strip() in COMMANDS:
            name, place = f"{name} {words[place]}".strip(), place + 1
        assert name, f"dragonfly {' '.join(words)}"
        options = {
            option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= options, f"dragonfly {' '.join(words)}: {used - options}"


@pytest.mark.parametrize("page", PAGES)
def test_an_option_that_stands_alone_is_one_of_ours(page: str) -> None:
    ours = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    assert {words.split()[0] for words in quoted(page) if re.match(r"--[a-z]", words)} <= ours


def units() -> list[tuple[str, str, str]]:
    return [(page, name, content) for page in PAGES for name, content in UNIT.findall(TEXTS[page])]


def test_every_ini_block_with_sections_is_a_unit() -> None:
    found = [content for page in PAGES for content in blocks(page, "ini") if content.startswith("[")]
    assert found == [content for _, _, content in units()]


@pytest.mark.parametrize(("name", "content"), [(name, content) for _, name, content in units()])
def test_a_unit_starts_what_is_there(name: str, content: str) -> None:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(content)
    if name.endswith(".timer"):
        assert "OnCalendar" in unit["Timer"]
        return
    assert unit["Service"]["WorkingDirectory"] == CHECKOUT
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.startswith(PROGRAMS)
    if program == f"{PROGRAMS}dragonfly":
        command = COMMANDS[words[0]]
        with click.Context(command) as context:
            command.make_parser(context).parse_args(words[1:])
        assert unit["Service"]["SuccessExitStatus"] == "1 2"
    elif words[:2] == ["-m", "celery"]:
        _parse_celery(words[2:])
    else:
        assert words[:2] == ["-m", "gunicorn"]
        gunicorn.config.Config().parser().parse_args(words[2:])
        assert words[-1] == "app.wsgi:app"


def _parse_celery(words: list[str]) -> None:
    """Raises click.UsageError where an option is none of Celery's."""
    with click.Context(celery_command) as context:
        _, rest, _ = celery_command.make_parser(context).parse_args(list(words))
        assert words[: words.index(rest[0])] == ["--quiet", "-A", "tasks.worker"]
        below = celery_command.get_command(context, rest[0])
        assert below is not None
        below.make_parser(context).parse_args(rest[1:])


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Where systemd is not installed, the test before this one has to do."""
    verify = shutil.which("systemd-analyze")
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("python", "dragonfly"):
        (programs / program).symlink_to("/bin/true")
    written = []
    for _, name, content in units():
        # The checkout's place and its programs are this machine's, and so is the user.
        here = (
            content.replace(PROGRAMS, f"{programs}/").replace(CHECKOUT, str(tmp_path)).replace("User=dragonfly\n", "")
        )
        written.append(tmp_path / name)
        written[-1].write_text(here)
    assert len({path.name for path in written}) == len(written) == 6
    if verify is None:
        return
    done = subprocess.run(
        [verify, "verify", "--man=no", *map(str, written)], capture_output=True, text=True, timeout=60, check=False
    )
    about_ours = [line for line in done.stderr.splitlines() if "dragonfly-" in line]
    assert about_ours == []


def test_the_line_for_cron_is_one() -> None:
    (content,) = blocks("docs/SRE_SENTINEL_GUIDE.md", "cron")
    mail, line = content.splitlines()
    assert re.fullmatch(r"MAILTO=\S+", mail)
    fields_of_line = line.split(None, 5)
    assert [bool(re.fullmatch(r"\*(/\d+)?|\d+", part)) for part in fields_of_line[:5]] == [True] * 5
    # Where a percent sign stands, cron ends the command.
    assert "%" not in fields_of_line[5]

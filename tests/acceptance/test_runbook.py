"""docs/RUNBOOK_OPS.md is run: each incident is made for real, the page's blocks are executed as written, and it is over.

Also run are the blocks of docs/SRE_SENTINEL_GUIDE.md and docs/DEPLOYMENT.md. The last tests name every block that was run.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store import schema
from monitoring.checks import CHECKS
from tests.acceptance import incidents_of_batches, incidents_of_servers
from tests.acceptance.incidents import INCIDENTS, Incident, Variables
from tests.acceptance.pages import REPOSITORY, Block, Shell, blocks_of, checkout_in, matches
from tests.acceptance.stage import Stage
from tests.monitoring.discord_stub import DiscordStub
from tests.monitoring.postgrest_stub import PostgrestStub

RUNBOOK, GUIDE, DEPLOYMENT = "docs/RUNBOOK_OPS.md", "docs/SRE_SENTINEL_GUIDE.md", "docs/DEPLOYMENT.md"
AS_OWNER = "-- as the owner\n"
BEFORE, AFTER = "First look", "Over when"
SETUP = "Before you begin"

TEXTS = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in (RUNBOOK, GUIDE, DEPLOYMENT)}
PAGES = {page: blocks_of(text, ("sh", "sql")) for page, text in TEXTS.items()}
TEXT, BLOCKS = TEXTS[RUNBOOK], PAGES[RUNBOOK]
MAKERS = (incidents_of_batches, incidents_of_servers)
"""Importing them registers what they make."""
RUN: set[str] = set()
"""The names of the blocks that were run."""


def section_of(block: Block) -> str:
    return block.headings[0]


def part_of(block: Block) -> str:
    return block.headings[1] if len(block.headings) > 1 else ""


def name_of(block: Block, page: str = RUNBOOK) -> str:
    """Page, section, part, line and language."""
    return " / ".join((Path(page).stem, *block.headings, f"line {block.line}", block.language))


def anchor_of(heading: str) -> str:
    """The name of a heading, as a forge makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def parts() -> list[tuple[str, str]]:
    """Every part of the page that ends an incident, in its order: those with a block, and those that refer to a section."""
    found = [
        (section_of(block), part_of(block))
        for block in BLOCKS
        if block.not_run is None and section_of(block) != SETUP and part_of(block) not in (BEFORE, AFTER)
    ]
    section = ""
    for line in TEXT.splitlines():
        if line.startswith("## "):
            section = line[3:]
        if line.startswith("### Fix: "):
            part = line[4:]
            if referred(section, part):
                found.append((section, part))
    return sorted(set(found), key=lambda part: TEXT.index(f"### {part[1]}\n" if part[1] else f"## {part[0]}\n"))


def referred(section: str, part: str) -> str | None:
    """The section all of whose blocks stand for this part, which has none itself."""
    if any((section_of(block), part_of(block)) == (section, part) for block in BLOCKS):
        return None
    body = TEXT.partition(f"## {section}\n")[2].partition(f"### {part}\n")[2].partition("\n#")[0]
    links = re.findall(r"\]\(#([\w-]+)\)", body)
    return next((heading for heading in {*map(section_of, BLOCKS)} if anchor_of(heading) in links), None)


def blocks_for(section: str, part: str) -> list[Block]:
    """What a reader does, in order: the section's first look, the part, and what the section says of the end."""
    wanted = {BEFORE: [], part: [], AFTER: []} if part else {"": []}
    for block in BLOCKS:
        if section_of(block) == section and part_of(block) in wanted and block.not_run is None:
            wanted[part_of(block)].append(block)
    if part and not wanted[part]:
        wanted[part] = [block for block in BLOCKS if section_of(block) == referred(section, part)]
    return [block for group in wanted.values() for block in group]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stack, whose store is on a disk of 128 MiB that may be filled."""
    disk = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(disk)], check=True)
    postgrest = PostgrestStub()
    try:
        with DiscordStub() as discord, DiscordStub() as another, postgrest.answering():
            on_stage = Stage(tmp_path_factory.mktemp("stage"), disk, postgrest, discord, another)
            try:
                with postgrest.listening(on_stage.pipeline.info["database_direct_url"]):
                    yield on_stage
            finally:
                on_stage.pipeline.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def shell(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A reader's shell, in which the page's first block has been run."""
    folder = tmp_path_factory.mktemp("shell")
    opened = Shell(checkout_in(folder), stage.environment, folder / "stderr")
    try:
        for block in BLOCKS:
            if section_of(block) == SETUP:
                run(opened, block)
        yield opened
    finally:
        opened.close()


def run(shell: Shell, block: Block, page: str = RUNBOOK) -> None:
    """The block as written; one of SQL is typed into the psql that the page names for it."""
    if block.language == "sql":
        psql = "ask_as_owner" if block.commands.startswith(AS_OWNER) else "ask"
        commands = f"{psql} --set=ON_ERROR_STOP=1 <<'END OF BLOCK'\n{block.commands}END OF BLOCK\n"
    else:
        commands = block.commands
    began = time.monotonic()
    status, printed, errors = shell.run(commands)
    name = name_of(block, page)
    print(f"run: {name} ({time.monotonic() - began:.1f} s)")
    place = f"{name}:\n{block.commands}printed:\n{printed}\n{errors[-2000:]}"
    assert status == block.exit_status, place
    # psql fills its columns up with blanks and ends with an empty line: no page shows these.
    readable = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    assert block.shown is None or matches(block.shown, readable), place
    RUN.add(name)


def put(shell: Shell, variables: Variables) -> None:
    """What the page has the reader say before a block."""
    for name, value in variables.items():
        shell.run(f"export {name}='{value}'")


def test_the_guide_shows_what_a_new_stack_answers(stage: Stage, shell: Shell) -> None:
    while not stage.owner("SELECT 1 FROM ops.sentinel_runs WHERE overall_status = 'healthy'"):
        time.sleep(0.1)
    for block in PAGES[GUIDE]:
        run(shell, block, GUIDE)
    assert {name_of(block, GUIDE) for block in PAGES[GUIDE]} <= RUN


@pytest.mark.parametrize(
    ("section", "part", "incident"),
    [(*place, incident) for place in parts() for incident in INCIDENTS.get(place, ())],
    ids=lambda value: (anchor_of(value) or "all") if isinstance(value, str) else "",
)
def test_an_incident_is_over_once_its_blocks_were_run(
    section: str, part: str, incident: Incident, stage: Stage, shell: Shell
) -> None:
    blocks = blocks_for(section, part)
    with incident.make(stage) as variables:
        put(shell, variables)
        if incident.check is not None:
            print(f"raised: {stage.wait_until_raised(incident.check).message}")
        incident.relief(stage)
        for block in blocks:
            if part_of(block) != AFTER:
                run(shell, block)
        put(shell, incident.setting)
        if incident.check is not None and not incident.setting:
            print(f"over: {stage.wait_until_healthy(incident.check).message}")
        for block in blocks:
            if part_of(block) == AFTER:
                run(shell, block)
        shell.run(f"unset BATCH {' '.join(variables)}")
        put(shell, {name: stage.settings[name] for name in incident.setting})
        incident.over(stage, variables)
    assert {name_of(block) for block in blocks} <= RUN


def test_every_incident_stands_on_the_page() -> None:
    assert sorted(INCIDENTS) == sorted(parts())


def test_all_is_well_at_the_end(stage: Stage) -> None:
    for check in CHECKS:
        stage.wait_until_healthy(check)
    done = stage.pipeline.command("sentinel", "--check", "ledger")
    assert done.returncode == 0, done.stdout


def test_a_release_is_deployed_and_rolled_back(stage: Stage, shell: Shell) -> None:
    """From the schema before the newest one, and back to it."""
    direct_url = stage.pipeline.info["database_direct_url"]
    ((newest,),) = stage.owner("SELECT version_num FROM public.alembic_version")
    schema.migrate_down(direct_url, "-1")
    ((before,),) = stage.owner("SELECT version_num FROM public.alembic_version")
    try:
        for block in PAGES[DEPLOYMENT]:
            if block.not_run is None:
                run(shell, block, DEPLOYMENT)
            if "dragonfly migrate" in block.commands:
                assert stage.owner("SELECT version_num FROM public.alembic_version") == [(newest,)]
        assert stage.owner("SELECT version_num FROM public.alembic_version") == [(before,)]
    finally:
        schema.migrate(direct_url)


@pytest.mark.parametrize(
    "name", [name_of(block, page) for page, blocks in PAGES.items() for block in blocks if block.not_run is None]
)
def test_this_block_was_run(name: str) -> None:
    """Holds only where the whole module is run."""
    assert name in RUN, f"{name} was not run: no test of its page, and no incident of its part, reaches it"


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [
        (Path(page).stem, block.headings[-1], block.not_run)
        for page, blocks in PAGES.items()
        for block in blocks
        if block.not_run is not None
    ]
    assert left_out == [
        ("RUNBOOK_OPS", "Fix: the server is down", "it needs a server that systemd keeps"),
        ("RUNBOOK_OPS", "Fix: restart PostgREST", "it needs a container engine"),
        ("RUNBOOK_OPS", "Fix: it hangs, or is down", "it needs a broker that systemd keeps"),
        ("DEPLOYMENT", "1. Prove it in dev", "it is the test run itself"),
        ("DEPLOYMENT", "4. Install and migrate", "it would replace the tree under test"),
        ("DEPLOYMENT", "6. Restart", "it needs services that systemd keeps"),
        ("DEPLOYMENT", "Roll back", "it would replace the tree under test"),
        ("DEPLOYMENT", "Roll back", "it replaces the whole database"),
    ]


@pytest.mark.parametrize("check", CHECKS)
def test_an_alert_leads_to_its_section(check: str) -> None:
    anchor = check.replace("_", "-")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    assert [anchor_of(heading) for heading in headings].count(anchor) == 1
    own = [block for block in BLOCKS if anchor_of(section_of(block)) == anchor]
    assert {part_of(block) for block in own} >= {BEFORE, AFTER}
    assert any(part_of(block).startswith("Fix: ") for block in own)


@pytest.mark.parametrize("section", ["Force a re-ingest", "Clean up by hand"])
def test_a_procedure_has_blocks(section: str) -> None:
    assert any(section_of(block) == section for block in BLOCKS)

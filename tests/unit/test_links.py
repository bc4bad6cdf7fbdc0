"""Links between the pages lead somewhere: to a file of the repository, and to a heading that the page has."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = ("http://", "https://", "mailto:")


def prose_of(page: Path) -> str:
    """The page without its code."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def anchors_of(page: Path) -> set[str]:
    """The names of the page's headings, as a forge makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(prose_of(page)):
        if link.startswith(OUTSIDE):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(prose_of(page)) if not link.startswith(OUTSIDE)]
        waiting += [(page.parent / link).resolve() for link in links if link]
    assert sorted(page.name for page in PAGES if page not in seen and page.parent != REPOSITORY) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One Heading\n[a](page.md#one-heading) [b](#none) [c](gone.md) `[d](code.md)` [e](https://x)\n")
    assert broken_links(page) == ["#none", "gone.md"]


@pytest.mark.parametrize(
    "record", sorted((REPOSITORY / "docs" / "decisions").glob("0*.md")), ids=lambda record: record.stem
)
def test_a_decision_is_in_the_index_with_its_title_and_status(record: Path) -> None:
    lines = record.read_text(encoding="utf-8").splitlines()
    title = lines[0].partition(". ")[2]
    status = next(line for line in lines if line.startswith("Status: ")).removeprefix("Status: ").partition(",")[0]
    index = (record.parent / "README.md").read_text(encoding="utf-8")
    assert lines[0].startswith(f"# {int(record.stem[:4])}. ")
    assert f"| [{record.stem[:4]}]({record.name}) | {title} | {status} |" in index

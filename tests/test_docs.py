"""The documentation's links lead somewhere."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("[met]*/README.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = [link or image for link, image in LINK.findall(page.read_text())]
    lost = []
    for link in links:
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_no_page_of_the_documentation_is_missing_from_the_readme() -> None:
    linked = {link for link, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= linked


INVARIANT = re.compile(r"^\| (I\d) [a-z ]+ \| .+ \| (.+) \|$", re.MULTILINE)
CITED = re.compile(r"(?<!in )\bI\d\b")  # a type of weights may also be "in I8"
SOURCES = ("prefillshare", "sglang_patches", "tui", "tests", "docs", "examples", "models")


def held_by() -> dict[str, set[str]]:
    """The files that hold each invariant, as docs/architecture.md says."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return {label: set(re.findall(r"`(\S+?)`", tests)) for label, tests in INVARIANT.findall(text)}


def test_every_citation_of_an_invariant_means_one_of_the_architecture() -> None:
    known = held_by()
    assert list(known) == [f"I{number}" for number in range(1, 9)]
    files = [file for folder in SOURCES for end in ("py", "md") for file in (ROOT / folder).rglob(f"*.{end}")]
    lost = {f"{file}: {label}" for file in files for label in CITED.findall(file.read_text()) if label not in known}
    assert not lost


@pytest.mark.parametrize("label", [f"I{number}" for number in range(1, 9)])
def test_the_tests_that_hold_an_invariant_say_so_and_no_others(label: str) -> None:
    tests = ROOT / "tests"
    citing = {
        str(file.relative_to(tests)) for file in tests.rglob("test_*.py") if label in CITED.findall(file.read_text())
    }
    assert citing - {"test_docs.py"} == held_by()[label]


TOLD = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
ROOMS = ("prefillshare/", "sglang_patches/", "tests/", "tui/", "models/", "docs/", "examples/", "benchmarks/")


def told_in(page: Path) -> list[str]:
    """What a page quotes: words in code, and the lines of its consoles without their comments."""
    text = page.read_text()
    lines = [line.split("  #")[0].strip() for block in BLOCK.findall(text) for line in block.splitlines()]
    return [*lines, *TOLD.findall(BLOCK.sub("", text))]


@pytest.mark.parametrize("name", ["docs/development.md", "docs/architecture.md", "README.md", "CONTRIBUTING.md"])
def test_every_place_that_a_guide_names_is_there(name: str) -> None:
    places = [word for told in told_in(ROOT / name) for word in told.split() if word.startswith(ROOMS)]
    places = [place.partition("::")[0].rstrip('".,') for place in places]
    assert not [place for place in places if not (ROOT / place).exists()]


@pytest.mark.parametrize("name", ["docs/development.md", "README.md", "CONTRIBUTING.md"])
def test_every_command_that_a_guide_names_exists(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for told in told_in(ROOT / name):
        words = told.split()
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in targets or words[1].endswith("-..."), told
        if words[:2] == ["python", "-m"]:
            assert find_spec(words[2]) is not None, told


MAPPED = re.compile(r"^\| (`[\w/`., ]+`) \| [^|]+ \|([^|]*)\|$", re.MULTILINE)
PACKAGES = [
    *ROOT.glob("prefillshare/*"),
    ROOT / "benchmarks",
    ROOT / "sglang_patches",
    ROOT / "tui" / "prefillshare_tui",
]


def rooms_of(package: Path) -> set[str]:
    """The folders of a package that hold code."""
    return {folder.name for folder in package.iterdir() if (folder / "__init__.py").exists()}


def is_code(path: Path) -> bool:
    return (path.suffix == ".py" and not path.name.startswith("__")) or (path.is_dir() and any(path.glob("**/*.py")))


def test_the_map_of_packages_is_true() -> None:
    """Every package and every room stands in docs/architecture.md, and no other."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Packages")[2]
    told = {}
    for names, rooms in MAPPED.findall(text):
        for name in re.findall(r"`(\S+?)`", names):
            told[name] = set(re.findall(r"`(\w+)`", rooms))
    there = {
        str(path.relative_to(ROOT)): rooms_of(path) if path.is_dir() else set() for path in PACKAGES if is_code(path)
    }
    assert told == there

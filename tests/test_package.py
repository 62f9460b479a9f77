"""What is installed: the wheel's files, what each extra brings, and what works without torch."""

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from prefillshare.contract import PLUGINS
from prefillshare.errors import ConfigError
from prefillshare.extras import LIBRARIES, Extra, naming_the_missing_extra, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"prefillshare": ROOT, "sglang_patches": ROOT, "prefillshare_tui": ROOT / "tui"}
APART = {"bfcl_eval", "lm_eval"}
"""Have extras of their own, which the commands name themselves."""
WITHOUT = """
import json, sys

class NotInstalled:
    names = set(json.loads(sys.argv.pop(1)))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
"""Begins a program in which some of the installed libraries cannot be imported."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    wheel.extractall(folder)
    return folder


def test_the_wheel_holds_the_packages_with_their_types_the_models_and_the_licence(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert "prefillshare/_models/tiny-agents.toml" in names
    assert "prefillshare/_models/tiny/math/adapter_model.safetensors" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_no_adapters_that_only_comparisons_need(wheel: zipfile.ZipFile) -> None:
    only_compared = ("naive", "tiny-naive.toml", "tiny-icarus", "tiny-icarus.toml")
    assert not [name for name in wheel.namelist() if set(only_compared) & set(Path(name).parts)]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--help",), 0, "dashboard|top"),
        (("--version",), 0, PROJECT["version"]),
        (("top", "--help"), 0, "--once"),
        (("ask", "math", "hi", "--url", "http://127.0.0.1:9"), 5, "no server answers"),
        (("chat", "--url", "http://127.0.0.1:9"), 5, "no server answers"),
        (("top", "--once", "--url", "http://127.0.0.1:9"), 5, "no server answers"),
        (("top",), 2, "needs a terminal"),
        (("ps",), 0, "no deployment is running"),
        (("ps", "--cluster", "127.0.0.1:9"), 2, r"pip install 'prefillshare\[cluster\]'"),
        (("launch",), 2, r"pip install 'prefillshare\[engine\]'"),
        (("train", "recipe.toml"), 2, r"pip install 'prefillshare\[train\]'"),
        (("bench", "react"), 2, r"pip install 'prefillshare\[bench\]'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_laptop_with_the_dashboard_only(
    installed: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = _run_with("dashboard", installed, tmp_path, "from prefillshare.cli.app import main; main()", *arguments)
    assert (done.returncode, bool(re.search(said, done.stdout + done.stderr))) == (code, True), done.stderr


def test_the_dashboard_itself_needs_no_more(installed: Path, tmp_path: Path) -> None:
    script = (
        "import prefillshare_tui.app, prefillshare_tui.once, prefillshare_tui.export; "
        "print(sorted({'torch', 'sglang', 'numpy'} & set(sys.modules)))"
    )
    done = _run_with("dashboard", installed, tmp_path, script)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_without_the_dashboard_top_names_its_extra(installed: Path, tmp_path: Path) -> None:
    script = "from prefillshare.extras import *\nwith naming_the_missing_extra(): import prefillshare_tui.app"
    done = _run_with(None, installed, tmp_path, script)
    assert "pip install 'prefillshare[dashboard]'" in done.stderr


def test_everything_imported_comes_with_the_package_or_an_extra() -> None:
    base = _names_of(_closure(PROJECT["dependencies"]))
    listed = {name for names in LIBRARIES.values() for name in names}
    imported = set(_imported())
    assert imported - base - listed - APART == set()
    assert {name for name in listed - imported if name not in _UNNAMED} == set()


_UNNAMED = {"nixl", "tensorboard"}
"""Needed, and imported by others: SGLang's connector, and transformers' Trainer."""


@pytest.mark.parametrize("extra", LIBRARIES)
def test_an_extra_brings_what_it_is_named_for(extra: Extra) -> None:
    wanted = PROJECT["optional-dependencies"][extra]
    brought = _names_of(_closure(wanted))
    assert set(LIBRARIES[extra]) <= brought
    require(extra)


def test_an_unknown_import_is_no_matter_of_extras() -> None:
    with pytest.raises(ModuleNotFoundError), naming_the_missing_extra():
        raise ModuleNotFoundError("No module named 'textua'", name="textua")
    with pytest.raises(ConfigError, match=r"prefillshare\[dashboard\]"), naming_the_missing_extra():
        raise ModuleNotFoundError("No module named 'textual.app'", name="textual.app")


def test_entry_points_are_those_of_the_contract(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    assert all(f"\n{plugin} = " in text for plugin in PLUGINS.split(","))


def _run_with(
    extra: Extra | None, installed: Path, home: Path, script: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    wanted = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    absent = set(_installed()) - _names_of(_closure(wanted)) - set(PACKAGES)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT + script, json.dumps(sorted(absent)), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=300,
        cwd=home,
        env={"PYTHONPATH": str(installed), "PATH": "", "XDG_STATE_HOME": str(home), "HOME": str(home)},
    )


def _imported() -> Iterator[str]:
    """Names of the libraries that the packages import."""
    for package, folder in PACKAGES.items():
        for file in (folder / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                for name in _modules(node):
                    top = name.partition(".")[0]
                    if top not in sys.stdlib_module_names and top not in PACKAGES:
                        yield top


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def _closure(requirements: list[str]) -> set[str]:
    """The distributions that these requirements bring, by normal name."""
    found: set[str] = set()
    todo = list(requirements)
    while todo:
        wanted = todo.pop()
        name = _distribution(wanted)
        if name == "prefillshare":
            todo += PROJECT["optional-dependencies"]["engine"]
        elif name not in found and (needed := _requires(name)) is not None:
            found.add(name)
            todo += [text for text in needed if "extra ==" not in text]
    return found


@cache
def _requires(name: str) -> list[str] | None:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # of another platform
        return None


@cache
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def _distribution(text: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", text.strip())[0]).lower()


def _names_of(distributions: set[str]) -> set[str]:
    """What they let one import."""
    return {name for name, owners in _installed().items() if distributions & {_distribution(owner) for owner in owners}}


def test_the_changelog_has_the_version_and_room_for_what_comes_next() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    version, date = headings[1]
    assert version == PROJECT["version"]
    assert date

"""Classes of models: found by what their files say of themselves, and imported when they are asked for."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_patches import model_files
from sglang_patches.fingerprint import module_path
from sglang_patches.model_files import ModelClasses, files_by_class
from tests.support.fresh import Fresh

AS_UPSTREAM = """
import json, sys
from pathlib import Path
from sglang.srt import models
from sglang_patches.model_files import files_by_class, import_registry
import_registry()
from sglang.srt.models.registry import ModelRegistry, import_model_classes

said = files_by_class(Path(next(iter(models.__path__))))
before = sorted(file for file in set(said.values()) if file in sys.modules)
ours = {name: ModelRegistry.models.get(name) for name in said}
import_model_classes.cache_clear()
theirs = import_model_classes("sglang.srt.models")
print(json.dumps({
    "imported": before,
    "different": sorted(name for name in {*ours, *theirs} if ours.get(name) is not theirs.get(name)),
    "number": len(theirs),
    "resolved": ModelRegistry.resolve_model_cls(["Qwen3ForCausalLM"])[1],
    "fallback": ModelRegistry.resolve_model_cls(["NobodysForCausalLM"])[1],
}))
"""


def test_the_classes_are_those_that_sglang_finds_by_importing_all_files(fresh: Fresh) -> None:
    done = fresh.run(AS_UPSTREAM)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["number"] > 200
    assert found["different"] == []
    assert len(found["imported"]) < 10
    assert (found["resolved"], found["fallback"]) == ("Qwen3ForCausalLM", "TransformersForCausalLM")


def test_every_file_of_models_that_has_classes_is_known() -> None:
    path = module_path("sglang.srt.models.registry")
    assert path is not None
    listed = {f"{model_files.PACKAGE}.{file.stem}" for file in path.parent.glob("*.py") if _has_classes(file)}
    assert set(files_by_class(path.parent).values()) == listed
    without = files_by_class(path.parent, without=("llama", "qwen3"))
    assert listed - set(without.values()) == {f"{model_files.PACKAGE}.{name}" for name in ("llama", "qwen3")}


def _has_classes(file: Path) -> bool:
    return file.stem != "registry" and "EntryClass" in file.read_text()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelClasses]:
    """Files of models of our own."""
    package = tmp_path / "models_of_a_test"
    package.mkdir()
    (package / "one.py").write_text("class One:\n    pass\n\n\nEntryClass = One\n")
    (package / "two.py").write_text(
        "class Two:\n    pass\n\n\nclass Three:\n    pass\n\n\nEntryClass = [\n    Two,  # and\n    Three,\n]\n"
    )
    (package / "broken.py").write_text("import no_such_library\n\nEntryClass = Broken\n")
    (package / "none.py").write_text("class None_:\n    pass\n")
    monkeypatch.setattr(model_files, "PACKAGE", package.name)
    monkeypatch.syspath_prepend(tmp_path)
    yield ModelClasses(files_by_class(package))
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


def _imported() -> set[str]:
    return {name.rpartition(".")[2] for name in sys.modules if name.startswith("models_of_a_test.")}


def test_a_file_is_imported_when_one_of_its_classes_is_asked_for(
    written: ModelClasses, caplog: pytest.LogCaptureFixture
) -> None:
    assert (sorted(written), _imported()) == (["Broken", "One", "Three", "Two"], set())
    assert "Two" in written
    assert _imported() == {"two"}
    assert written["Three"].__name__ == "Three"
    assert "Broken" not in written
    assert "no_such_library" in caplog.text
    names = written.keys()
    assert (written.get("Four"), "Four" in names) == (None, False)
    assert (sorted(written), len(written)) == (["One", "Three", "Two"], 3)
    assert repr(written) == "['One', 'Three', 'Two']"


def test_a_class_of_the_users_is_stronger(written: ModelClasses) -> None:
    written.update({"One": int, "Own": str})
    assert (written["One"], written["Own"], _imported()) == (int, str, set())
    del written["Own"]
    assert "Own" not in written


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('{"architectures": ["A", "B"]}', ["A", "B"]),
        ('{"architectures": null}', []),
        ("{}", []),
        ("[]", []),
        ("no JSON", []),
        (None, []),
    ],
)
def test_the_engines_model_says_which_class_it_is(tmp_path: Path, config: str | None, found: list[str]) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert model_files._architectures(["--model-path", str(tmp_path), "--port", "1"]) == found
    assert model_files._architectures(["--port", "1"]) == []
    assert model_files._architectures(["--model-path"]) == []

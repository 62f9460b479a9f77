"""Classifier heads on disk and in memory: read with care, and only where they belong."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefillshare.errors import ModuleError
from prefillshare.modules.heads import (
    Head,
    HeadManifest,
    Heads,
    classifiers_of,
    read_classifier,
    read_classifiers,
    read_head,
    write_head,
)
from prefillshare.naming.alias import read_alias, read_aliases
from prefillshare.naming.rules import ByRules

OURS = "sha256:" + "a" * 64
WEIGHT = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=np.float32)


def make_head(**changes: Any) -> Head:
    known: dict[str, Any] = {
        "name": "choice",
        "labels": ("math", "tool", "code"),
        "hidden_size": 2,
        "prefill_fingerprint": OURS,
        "data_sha256": "sha256:0",
        "seed": 3,
    }
    return Head(
        manifest=HeadManifest(**{**known, **changes}), weight=WEIGHT, bias=np.array([0.0, 0.5, 0.0], dtype=np.float32)
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_head(tmp_path, make_head())
    return tmp_path


def test_a_head_is_read_as_it_was_written(directory: Path) -> None:
    head = read_head(directory)
    assert head.manifest == make_head().manifest
    assert (head.weight == WEIGHT).all()


def test_probabilities_are_those_of_the_logits(directory: Path) -> None:
    found = read_head(directory).classify([[2.0, 1.0]])
    logits = {"math": 2.0, "tool": 1.5, "code": -3.0}
    total = sum(map(math.exp, logits.values()))
    assert found == pytest.approx({label: math.exp(value) / total for label, value in logits.items()}, rel=1e-6)


def test_several_prompts_have_one_answer_between_them(directory: Path) -> None:
    head = read_head(directory)
    first, second = head.classify([[2.0, 1.0]]), head.classify([[-9.0, 4.0]])
    both = head.classify([[2.0, 1.0], [-9.0, 4.0]])
    assert both == pytest.approx({label: (first[label] + second[label]) / 2 for label in first}, rel=1e-6)


def test_states_of_another_model_are_refused(directory: Path) -> None:
    with pytest.raises(ModuleError, match="reads hidden states of 2 numbers and got 3"):
        Heads().classify(str(directory), [[1.0, 2.0, 3.0]])


def change(directory: Path, **values: object) -> None:
    file = directory / "router.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in {**known, **values}.items() if value is not None}))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"format": 2}, "format is 2 and this version reads 1"),
        ({"surprise": 1}, "the unknown key 'surprise'"),
        ({"hidden_size": 3}, r"a weight of shape \[3, 2\] \(float32\) and its manifest says \[3, 3\]"),
        ({"labels": ["math", "tool"]}, r"its manifest says \[2, 2\]"),
        ({"labels": ["math", "math", "code"]}, "two or more, each once"),
        ({"labels": "math"}, "labels are not a list of names"),
        ({"labels": [1, 2, 3]}, "labels are not a list of names"),
        ({"prefill_fingerprint": None}, "it lacks .*prefill_fingerprint"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(directory: Path, values: dict[str, Any], reason: str) -> None:
    change(directory, **values)
    with pytest.raises(ModuleError, match=reason):
        read_head(directory)


def test_damaged_files_are_refused(directory: Path, tmp_path: Path) -> None:
    weights = directory / "router.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    with pytest.raises(ModuleError, match=r"router.safetensors cannot be read .* make it again with `prefillshare tr"):
        read_head(directory)
    weights.unlink()
    with pytest.raises(ModuleError, match=r"has no router\.safetensors"):
        read_head(directory)
    (directory / "router.json").write_text("[1")
    with pytest.raises(ModuleError, match=r"router\.json cannot be read"):
        read_head(directory)
    (directory / "router.json").write_text("[1]")
    with pytest.raises(ModuleError, match="is not a JSON object"):
        read_head(directory)
    with pytest.raises(ModuleError, match=r"holds no classifier \(router.json is missing\)"):
        read_head(tmp_path / "nowhere")


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    head = make_head()
    head.weight[0, 0], before = np.nan, head.weight[0, 0]
    write_head(tmp_path, head)
    head.weight[0, 0] = before
    with pytest.raises(ModuleError, match="numbers that are none"):
        read_head(tmp_path)


def test_an_alias_learns_what_its_classifier_chooses_from(directory: Path) -> None:
    aliases = read_aliases({"auto": {"default": "math", "classifier": str(directory)}, "latest": "math"})
    assert classifiers_of(aliases.values()) == {str(directory)}
    known = read_classifiers(aliases, OURS)
    assert known["auto"].targets == ("math", "tool", "code")
    assert known["latest"] is aliases["latest"]


def test_a_classifier_of_another_prefill_module_is_refused(directory: Path) -> None:
    alias = read_alias("auto", {"default": "math", "classifier": str(directory)})
    with pytest.raises(ModuleError, match="prefill module aaaaaaaaaaaa, and this deployment's is bbbbbbbbbbbb"):
        read_classifier(alias, "sha256:" + "b" * 64)
    known, head = read_classifier(alias, None)
    assert isinstance(known, ByRules)
    assert head is not None
    assert known.labels == head.manifest.labels


def test_what_is_no_classifier_is_refused_by_the_aliass_name(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"alias 'auto': .* holds no classifier"):
        read_classifier(read_alias("auto", {"default": "math", "classifier": str(tmp_path)}), OURS)
    with pytest.raises(ModuleError, match="classifier = 'here': give the whole path"):
        read_classifier(read_alias("auto", {"default": "math", "classifier": "here"}), OURS)

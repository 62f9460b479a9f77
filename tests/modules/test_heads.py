"""Classifier heads on disk and in memory: read with care, and only where they belong."""

import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as torch_save

from prefillshare.errors import ModuleError
from prefillshare.modules.heads import (
    WEIGHTS_FILE,
    Head,
    HeadManifest,
    read_again,
    read_classifier,
    read_classifiers,
    read_head,
    read_told_classifier,
    tell_left_out,
    write_head,
)
from prefillshare.naming.alias import read_alias, read_aliases
from prefillshare.naming.rules import ByRules
from prefillshare.observe.events import Events

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
        read_head(directory).classify([[1.0, 2.0, 3.0]])


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
        ({"prefill_fingerprint": 5}, "prefill_fingerprint is 5: it must be text"),
        ({"name": ["a"]}, r"name is \['a'\]: it must be text"),
        ({"data_sha256": {}}, r"data_sha256 is {}: it must be text"),
        ({"hidden_size": "2"}, "hidden_size is '2': it must be a whole number above 0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": 2.0}, r"hidden_size is 2\.0"),
        ({"format": "x" * 500}, "^.{,400}$"),
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


def test_files_that_are_no_files_are_refused_and_not_waited_for(directory: Path) -> None:
    manifest, weights = directory / "router.json", directory / "router.safetensors"
    told, numbers = manifest.read_bytes(), weights.read_bytes()
    for file, reason in (
        (manifest, r"holds no classifier \(router.json is missing\)"),
        (weights, "has no router.safe"),
    ):
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ModuleError, match=reason):
            read_head(directory)
        file.unlink()
        file.write_bytes(told if file == manifest else numbers)
    with weights.open("r+b") as file:
        file.truncate(2 << 20)
    with pytest.raises(ModuleError, match=r"has 2097152 bytes, and 1048612 are the most"):
        read_head(directory)
    manifest.write_text('{"labels":' + "[" * 100_000)
    with pytest.raises(ModuleError, match=r"router\.json cannot be read"):
        read_head(directory)
    for path in (Path("/a\0b"), Path("/" + "x" * 5000)):
        with pytest.raises(ModuleError, match="make it again"):
            read_head(path)


def test_weights_of_another_type_are_refused(directory: Path) -> None:
    torch_save({"weight": torch.ones(3, 2, dtype=torch.bfloat16), "bias": torch.ones(3)}, directory / WEIGHTS_FILE)
    with pytest.raises(ModuleError, match=r"router\.safetensors"):
        read_head(directory)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    head = make_head()
    head.weight[0, 0], before = np.nan, head.weight[0, 0]
    write_head(tmp_path, head)
    head.weight[0, 0] = before
    with pytest.raises(ModuleError, match="numbers that are none"):
        read_head(tmp_path)


def test_an_alias_learns_what_its_classifier_chooses_from(directory: Path) -> None:
    aliases = read_aliases({"auto": {"default": "math", "classifier": str(directory)}, "latest": "math"})
    known = read_classifiers(aliases, OURS)
    assert known["auto"].targets == ("math", "tool", "code")
    assert known["latest"] is aliases["latest"]


def test_a_classifier_of_another_prefill_module_is_refused(directory: Path) -> None:
    alias = read_alias("auto", {"default": "math", "classifier": str(directory)})
    with pytest.raises(ModuleError, match="prefill module aaaaaaaaaaaa, and this deployment's is bbbbbbbbbbbb"):
        read_classifier(alias, "sha256:" + "b" * 64)
    known = read_classifier(alias, None)
    assert isinstance(known, ByRules)
    assert known.labels == make_head().manifest.labels


def test_what_is_no_classifier_is_refused_by_the_aliass_name(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"alias 'auto': .* holds no classifier"):
        read_classifier(read_alias("auto", {"default": "math", "classifier": str(tmp_path)}), OURS)
    with pytest.raises(ModuleError, match="classifier = 'here': give the whole path"):
        read_classifier(read_alias("auto", {"default": "math", "classifier": "here"}), OURS)


def _by_rules(alias: object) -> ByRules:
    assert isinstance(alias, ByRules)
    return alias


def test_a_classifier_belongs_to_its_alias_whatever_is_written_later(directory: Path) -> None:
    alias = read_alias("auto", {"default": "math", "classifier": str(directory)})
    first = _by_rules(read_classifier(alias, OURS))
    other = replace(make_head(labels=("law", "tool", "code")), bias=np.array([9.0, 0.0, 0.0], dtype=np.float32))
    write_head(directory, other)
    second = _by_rules(read_classifier(alias, OURS))
    assert first.judge is not None
    assert second.judge is not None
    assert list(first.judge([[2.0, 1.0]])) == list(first.labels) == ["math", "tool", "code"]
    assert list(second.judge([[2.0, 1.0]])) == list(second.labels) == ["law", "tool", "code"]
    assert first.classifier_sha256 != second.classifier_sha256
    assert _by_rules(read_classifier(first, OURS)).classifier_sha256 == second.classifier_sha256


def test_another_process_takes_the_same_classifier_only(directory: Path) -> None:
    told = read_classifier(read_alias("auto", {"default": "math", "classifier": str(directory)}), OURS)
    assert read_told_classifier(told, OURS) == told
    assert read_told_classifier(read_alias("latest", "math"), OURS).targets == ("math",)
    write_head(directory, make_head(seed=4))
    with pytest.raises(
        ModuleError, match=r"holds the classifier \w{12} here, and the router that was told of it has \w{12}"
    ):
        read_told_classifier(told, OURS)


def test_what_begins_again_leaves_out_what_it_cannot_read(directory: Path, tmp_path: Path) -> None:
    gone = {"default": "math", "classifier": str(tmp_path / "gone"), "labels": ["math", "tool", "code"]}
    table = {"auto": {"default": "math", "classifier": str(directory)}, "gone": gone, "latest": "math"}
    left_out: dict[str, str] = {}
    kept = read_again(read_aliases(table), OURS, ("math", "tool", "code"), left_out.__setitem__)
    assert list(kept) == ["auto", "latest"]
    assert _by_rules(kept["auto"]).judge is not None
    assert list(left_out) == ["gone"]
    assert "holds no classifier" in left_out["gone"]
    write_head(directory, make_head(labels=("law", "tool", "code")))
    assert list(read_again(kept, OURS, ("math", "tool", "code"), left_out.__setitem__)) == ["latest"]
    assert left_out["auto"] == "its classifier has the label 'law' now, which is no decode module or alias"


def test_who_looks_is_told_of_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events, gone = Events(lambda: 0.0), {"default": "math", "classifier": str(tmp_path / "gone")}
    assert not read_again(read_aliases({"gone": gone}), OURS, ("math",), partial(tell_left_out, events))
    [event] = events.as_list()
    assert (event["kind"], event["subject"]) == ("module", "gone")
    assert event["message"].startswith("the alias is left out: ")
    assert "alias 'gone' is left out: " in caplog.text

"""`prefillshare.json` is read back as written, and a bad one is refused."""

import json
from pathlib import Path

import pytest

from prefillshare.errors import ModuleError
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, read_manifest, write_manifest

MANIFEST = ModuleManifest(
    name="math",
    kind="lora",
    objective="cache-conditioned",
    prefill_fingerprint="sha256:00",
    tokenizer_sha256="11",
    chat_template_sha256="22",
    data_sha256="33",
    seed=7,
    training={"rank": 16, "learning_rate": 1e-3},
)


def test_it_is_read_back_as_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["boundary"] == "last-prompt-token"


def test_a_manifest_of_before_there_was_a_rule_has_that_of_own_answers(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    content = json.loads((tmp_path / MANIFEST_NAME).read_text())
    del content["kv_rule"]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    assert read_manifest(tmp_path) == MANIFEST


def test_a_directory_without_one_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "dora"}, "manifest kind is 'dora'"),
        ({"objective": "sft"}, "manifest objective is 'sft'"),
        ({"format": 2}, "manifest format is 2"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"kv_rule": "mine"}, "manifest kv_rule is 'mine'"),
        ({"kv_rule": "all-base"}, "objective is 'cache-conditioned' and its kv_rule 'all-base'.* trains for 'own-answ"),
        ({"objective": "icarus"}, "objective is 'icarus' and its kv_rule 'own-answers'.*: the file is damaged"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    write_manifest(tmp_path, MANIFEST)
    content = json.loads((tmp_path / MANIFEST_NAME).read_text())
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**content, **change}))
    with pytest.raises(ModuleError, match=said):
        read_manifest(tmp_path)


def test_a_missing_key_or_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text('{"name": "math"}')
    with pytest.raises(ModuleError, match="manifest lacks"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("[")
    with pytest.raises(ModuleError, match="cannot be read"):
        read_manifest(tmp_path)

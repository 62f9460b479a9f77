"""Modules that must not be served together are refused before anything starts (I6)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError, ModuleError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.heads import Head, HeadManifest, read_head, write_head
from prefillshare.modules.unshared import adapter_kv_sha256
from prefillshare.serving.plan.variables import alias_variables, unshared_variables
from prefillshare.serving.plan.workers import engine_of
from tests.support.random_models import make_adapter, make_base, make_family, write_deployment


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_family(tmp_path, ("math", "tool"))


def _resolve(file: Path) -> ResolvedDeployment:
    return resolve(load_deployment(file))


def _edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_fitting_family_is_resolved_without_warnings(file: Path) -> None:
    resolved = _resolve(file)
    assert [module.spec.name for module in resolved.modules] == ["math", "tool"]
    assert {module.adapter.rank for module in resolved.modules} == {8}
    assert resolved.fingerprint.startswith("sha256:")
    assert resolved.warnings == ()
    assert resolved.max_positions == 4096


def test_an_adapter_of_another_prefill_module_is_refused(file: Path) -> None:
    make_base(file.parent / "base", seed=99)
    with pytest.raises(ModuleError, match="'math' was trained on the prefill module"):
        _resolve(file)


@pytest.mark.parametrize("name", ["base", "math"])
def test_a_path_that_the_engine_reads_as_a_pattern_is_refused(file: Path, name: str) -> None:
    (file.parent / name).rename(file.parent / f"{name}[1]")
    file.write_text(file.read_text().replace(f'path = "{name}"', f'path = "{name}[1]"'))
    with pytest.raises(ModuleError, match=r"\[1\], and the engine takes .* as a pattern: rename the directory"):
        _resolve(file)


def test_an_adapter_of_another_geometry_is_refused_even_without_a_manifest(file: Path) -> None:
    other = make_base(file.parent / "other", hidden=32)
    make_adapter(file.parent / "math", other, "math", seed=1)
    (file.parent / "math" / "prefillshare.json").unlink()
    with pytest.raises(ModuleError, match=r"does not fit prefill module 'random-base': its .* is .* and there it is"):
        _resolve(file)


def test_an_adapter_of_a_deeper_model_is_refused(file: Path) -> None:
    other = make_base(file.parent / "other", layers=3)
    make_adapter(file.parent / "math", other, "math", seed=1)
    with pytest.raises(ModuleError, match=r"it changes model\.layers\.2"):
        _resolve(file)


def test_another_tokenizer_or_template_is_refused(file: Path) -> None:
    _edit_json(file.parent / "math" / "prefillshare.json", tokenizer_sha256="ab" * 32)
    with pytest.raises(ModuleError, match="was trained with a different tokenizer"):
        _resolve(file)
    _edit_json(file.parent / "math" / "prefillshare.json", **_text_hashes(file))
    _edit_json(file.parent / "math" / "prefillshare.json", chat_template_sha256="ab" * 32)
    with pytest.raises(ModuleError, match="was trained with a different chat template"):
        _resolve(file)


def test_an_ordinary_adapter_needs_accept_naive(file: Path) -> None:
    make_adapter(file.parent / "math", file.parent / "base", "math", seed=1, objective="full-ft")
    with pytest.raises(ModuleError, match="accept_naive = true"):
        _resolve(file)
    _accept_naive(file)
    resolved = _resolve(file)
    assert "accept_naive" in resolved.warnings[0]
    assert "objective full-ft: answers badly" in str(resolved.modules[0].warning)


@pytest.mark.parametrize("has_manifest", [True, False])
def test_an_ordinary_adapter_may_compute_its_prompts_itself(file: Path, has_manifest: bool) -> None:
    make_adapter(file.parent / "math", file.parent / "base", "math", seed=1, objective="full-ft")
    if not has_manifest:
        (file.parent / "math" / "prefillshare.json").unlink()
    with pytest.raises(ModuleError, match="share = false to serve it with prompts of its own"):
        _resolve(file)
    _do_not_share(file)
    resolved = _resolve(file)
    assert resolved.warnings == ()
    assert resolved.modules[0].warning == "its prompts are not shared (share = false)"
    told = json.loads(unshared_variables(engine_of(resolved))["PREFILLSHARE_UNSHARED_MODULES"])
    assert told == {"math": adapter_kv_sha256(file.parent / "math")}


def test_nothing_is_told_of_modules_that_share(file: Path) -> None:
    assert unshared_variables(engine_of(_resolve(file))) == {}


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_the_hash_of_an_adapter_is_that_of_all_that_makes_its_kv(file: Path, name: str) -> None:
    folder = file.parent / "math"
    before = adapter_kv_sha256(folder)
    (folder / "README.md").write_text("nothing of it is computed with")
    assert adapter_kv_sha256(folder) == before
    with (folder / name).open("ab") as weights:
        weights.write(b" ")
    assert adapter_kv_sha256(folder) != before


def test_a_module_that_was_trained_to_share_has_to(file: Path) -> None:
    _do_not_share(file)
    with pytest.raises(ModuleError, match="'math' has share = false and was trained over the prefill module's KV"):
        _resolve(file)


@pytest.mark.parametrize(("lowest", "may"), [(0.0, True), (0.25, False)])
def test_one_that_was_trained_for_any_ratio_need_not(file: Path, lowest: float, may: bool) -> None:
    _do_not_share(file)
    manifest = file.parent / "math" / "prefillshare.json"
    content = json.loads(manifest.read_text())
    content["training"] = {"config": {"sharing_ratio": [lowest, 1.0]}}
    manifest.write_text(json.dumps(content))
    if may:
        assert _resolve(file).warnings == ()
    else:
        with pytest.raises(ModuleError, match="without which it answers badly: remove share = false"):
            _resolve(file)


def _do_not_share(file: Path) -> None:
    file.write_text(file.read_text().replace('path = "math"', 'path = "math"\nshare = false'))


def _accept_naive(file: Path, path: str = "math") -> None:
    file.write_text(file.read_text().replace(f'path = "{path}"', f'path = "{path}"\naccept_naive = true'))


def test_an_adapter_without_manifest_needs_accept_naive(file: Path) -> None:
    (file.parent / "math" / "prefillshare.json").unlink()
    with pytest.raises(ModuleError) as caught:
        _resolve(file)
    assert "'math' has no prefillshare.json" in str(caught.value)
    assert "14 of 30" in str(caught.value)
    assert "accept_naive = true" in str(caught.value)
    _accept_naive(file)
    resolved = _resolve(file)
    (warning,) = resolved.warnings
    assert "has no prefillshare.json" in warning
    assert "'prefillshare/random-base'" in warning
    assert "14 of 30 right" in warning
    assert [module.warning for module in resolved.modules][1] is None
    assert "training unknown: answers badly over shared KV" in str(resolved.modules[0].warning)


def test_a_decode_module_as_prefill_module_is_refused(file: Path) -> None:
    manifest = (file.parent / "math" / "prefillshare.json").read_text()
    (file.parent / "base" / "prefillshare.json").write_text(manifest)
    with pytest.raises(ModuleError, match="is a lora decode module: point path at a base model"):
        _resolve(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "only LoRA adapters can be served"),
        ({"use_dora": True}, "uses DoRA"),
        ({"use_rslora": True}, "rank-stabilised"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, 'train it with bias = "none"'),
        ({"target_modules": ".*_proj"}, "write a list of layer names"),
        ({"r": 4}, "says rank 4 but its tensors have 8"),
    ],
)
def test_adapters_that_the_engine_would_misread_are_refused(file: Path, changes: dict[str, object], said: str) -> None:
    _edit_json(file.parent / "math" / "adapter_config.json", **changes)
    with pytest.raises(ModuleError) as caught:
        _resolve(file)
    assert said in str(caught.value)
    assert "'math'" in str(caught.value)


def _add_tensor(name: str, rank: int = 8) -> Callable[[Path], None]:
    def edit(adapter: Path) -> None:
        tensors = load_file(adapter / "adapter_model.safetensors")
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.zeros((rank, 64), np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.zeros((64, rank), np.float32)
        save_file(tensors, adapter / "adapter_model.safetensors")

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_add_tensor("lm_head"), "changes lm_head, which all modules share"),
        (_add_tensor("model.embed_tokens"), "changes embed_tokens, which all modules share"),
        (_add_tensor("model.layers.0.mlp.experts.0.up_proj"), "expert layer"),
        (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda adapter: (adapter / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda adapter: (adapter / "added_tokens.json").write_text('{"<new>": 9}'), "adds tokens to the vocabulary"),
    ],
)
def test_damaged_or_unsupported_tensors_are_refused(file: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(file.parent / "math")
    with pytest.raises(ModuleError) as caught:
        _resolve(file)
    assert said in str(caught.value)


def test_a_context_longer_than_the_model_is_refused(file: Path) -> None:
    write_deployment(file, ("math",), engine="context_length = 8192\n")
    with pytest.raises(ModuleError, match="set context_length = 4096 or less"):
        _resolve(file)


def test_a_hub_module_without_network_says_how_to_go_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    file.write_text(file.read_text().replace('path = "base"', 'hub = "Qwen/Qwen3-8B"'))
    with pytest.raises(ModuleError, match=r"'Qwen/Qwen3-8B' .* could not be fetched .* give path = "):
        _resolve(file)


def _text_hashes(file: Path) -> dict[str, object]:
    manifest = json.loads((file.parent / "tool" / "prefillshare.json").read_text())
    return {key: manifest[key] for key in ("tokenizer_sha256", "chat_template_sha256")}


def _full(file: Path, name: str, **changes: str) -> Path:
    """Serve module `name` with full weights in the disaggregated topology."""
    text = file.read_text().replace('topology = "colocated"', 'topology = "disaggregated"')
    head, _, tail = text.partition(f'name = "{name}"')
    tail = tail.replace(
        'kind = "lora"', 'kind = "full"' + "".join(f"\n{key} = {value}" for key, value in changes.items()), 1
    )
    file.write_text(f'{head}name = "{name}"{tail}')
    return file


def test_an_adapter_is_merged_once_and_kept(file: Path) -> None:
    first = _resolve(_full(file, "math", merge="true")).modules[0]
    assert first.adapter is None
    assert first.manifest is not None
    assert first.manifest.kind == "full"
    assert file.parent / "cache" in first.path.parents
    before = (first.path / "model.safetensors").stat().st_mtime_ns
    assert _resolve(file).modules[0].path == first.path
    assert (first.path / "model.safetensors").stat().st_mtime_ns == before

    make_adapter(file.parent / "math", file.parent / "base", "math", seed=77)
    assert _resolve(file).modules[0].path != first.path


def test_full_weights_of_another_geometry_are_refused(file: Path) -> None:
    make_base(file.parent / "deep", layers=3)
    text = _full(file, "math").read_text().replace('path = "math"', 'path = "deep"')
    file.write_text(text)
    with pytest.raises(ModuleError, match="'math' has num_layers 3 and prefill module 'random-base' has 2"):
        _resolve(file)


def test_full_weights_without_a_manifest_need_accept_naive(file: Path) -> None:
    make_base(file.parent / "other", seed=5)
    file.write_text(_full(file, "math").read_text().replace('path = "math"', 'path = "other"'))
    with pytest.raises(ModuleError, match=r"'math' has no prefillshare\.json.*accept_naive = true"):
        _resolve(file)
    _accept_naive(file, "other")
    resolved = _resolve(file)
    assert resolved.modules[0].path == file.parent / "other"
    assert "has no prefillshare.json" in resolved.warnings[0]


def _add_classifier(file: Path, **changes: object) -> Path:
    """Let an alias of the deployment be decided by a classifier that fits it, but for `changes` of its manifest."""
    directory = file.parent / "head"
    directory.mkdir()
    known = {
        "name": "head",
        "labels": ("math", "tool"),
        "hidden_size": 64,
        "prefill_fingerprint": prefill_fingerprint(file.parent / "base"),
        "data_sha256": "sha256:0",
        "seed": 0,
    }
    manifest = HeadManifest(**{**known, **changes})  # type: ignore[arg-type]
    shape = (len(manifest.labels), 64)
    write_head(directory, Head(manifest=manifest, weight=np.zeros(shape, "f4"), bias=np.zeros(shape[0], "f4")))
    file.write_text(file.read_text() + '\n[aliases.auto]\ndefault = "math"\nclassifier = "head"\n')
    return directory


def test_an_alias_knows_what_its_classifier_chooses_from(file: Path) -> None:
    directory = _add_classifier(file)
    resolved = _resolve(file)
    assert resolved.config.aliases["auto"].targets == ("math", "tool")
    (variable,) = alias_variables(resolved).values()
    told = {"default": "math", "rules": [], "classifier": str(directory), "min_probability": 0.0}
    computed = {"labels": ["math", "tool"], "classifier_sha256": read_head(directory).sha256}
    assert json.loads(variable) == {"auto": {**told, **computed}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prefill_fingerprint": "sha256:" + "0" * 64}, "hidden states of the prefill module 000000000000, and this"),
        ({"labels": ("math", "law")}, "has the label 'law', which is no decode module or alias of math, tool"),
        ({"hidden_size": 32}, r"a weight of shape \[2, 64\] \(float32\) and its manifest says \[2, 32\]"),
    ],
)
def test_a_classifier_that_does_not_belong_to_a_deployment_is_refused(
    file: Path, changes: dict[str, object], reason: str
) -> None:
    _add_classifier(file, **changes)
    with pytest.raises((ConfigError, ModuleError), match=reason):
        _resolve(file)


def test_a_damaged_classifier_is_refused_before_anything_starts(file: Path) -> None:
    (_add_classifier(file) / "router.safetensors").write_bytes(b"half")
    with pytest.raises(ModuleError, match=r"alias 'auto': .*router\.safetensors cannot be read"):
        _resolve(file)

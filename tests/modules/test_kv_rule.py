"""A module whose KV is all the base's is served as an adapter beside the base, and changes nothing that makes KV."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefillshare.config import load_deployment
from prefillshare.errors import ModuleError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.modules.merge import merge_adapter
from tests.support.random_models import make_adapter, make_family

TARGETS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment of `math`, whose KV is all the base's, and of the ordinary module `tool`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = make_family(tmp_path, ("math", "tool"))
    make_all_base(file, TARGETS)
    return file


def make_all_base(file: Path, targets: tuple[str, ...]) -> None:
    folder = file.parent / "math"
    make_adapter(folder, file.parent / "base", "math", seed=1, objective="icarus", target_modules=targets)


def edit_tensors(folder: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> None:
    weights = folder / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(weights).items()}, weights)


def resolve_file(file: Path) -> ResolvedDeployment:
    return resolve(load_deployment(file))


def test_it_is_served_beside_an_ordinary_module(file: Path) -> None:
    resolved = resolve_file(file)
    assert resolved.warnings == ()
    assert [module.warning for module in resolved.modules] == [None, None]
    rules = [module.manifest.kv_rule for module in resolved.modules if module.manifest]
    assert rules == ["all-base", "own-answers"]


@pytest.mark.parametrize(
    ("objective", "rule", "said"),
    [("icarus", "own-answers", "trains for 'all-base'"), ("cache-conditioned", "all-base", "trains for 'own-answers'")],
)
def test_a_rule_that_is_not_the_objectives_is_damage(file: Path, objective: str, rule: str, said: str) -> None:
    manifest = file.parent / "math" / "prefillshare.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "objective": objective, "kv_rule": rule}))
    with pytest.raises(ModuleError, match=f"{said}.*damaged, build the module again"):
        resolve_file(file)


@pytest.mark.parametrize("target", ["k_proj", "v_proj"])
def test_matrices_that_would_have_no_effect_are_refused(file: Path, target: str) -> None:
    make_all_base(file, (*TARGETS, target))
    with pytest.raises(ModuleError, match=rf"'math' changes model\.layers\.0\.self_attn\.{target}, .*without k_proj"):
        resolve_file(file)


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_matrices_of_zeros_change_nothing_and_are_accepted(file: Path, side: str, zero: float) -> None:
    make_all_base(file, (*TARGETS, "v_proj"))
    edit_tensors(
        file.parent / "math",
        lambda name, tensor: np.full_like(tensor, zero) if f"v_proj.lora_{side}" in name else tensor,
    )
    assert "v_proj" in resolve_file(file).modules[0].adapter.target_modules  # type: ignore[union-attr]


def test_a_single_value_in_the_last_layer_is_found(file: Path) -> None:
    make_all_base(file, (*TARGETS, "v_proj"))

    def keep_one(name: str, tensor: np.ndarray) -> np.ndarray:
        if "v_proj.lora_B" not in name:
            return tensor
        only = np.zeros_like(tensor)
        only[-1, -1] = 1e-30 if "layers.1." in name else 0.0
        return only

    edit_tensors(file.parent / "math", keep_one)
    with pytest.raises(ModuleError, match=r"'math' changes model\.layers\.1\.self_attn\.v_proj"):
        resolve_file(file)


@pytest.mark.parametrize(
    ("merge", "fix"), [("\nmerge = true", "remove merge = true"), ("", "point path at the adapter")]
)
def test_full_weights_are_refused_with_the_reason(file: Path, merge: str, fix: str) -> None:
    text = file.read_text().replace('topology = "colocated"', 'topology = "disaggregated"')
    file.write_text(text.replace('kind = "lora"', f'kind = "full"{merge}', 1))
    with pytest.raises(ModuleError) as caught:
        resolve_file(file)
    assert "all made with the base's weights (kv_rule all-base), which a module with full weights does not hold" in str(
        caught.value
    )
    assert f'write kind = "lora", and {fix}' in str(caught.value)


def test_a_decode_worker_serves_it_beside_the_base(file: Path) -> None:
    file.write_text(file.read_text().replace('topology = "colocated"', 'topology = "disaggregated"'))
    assert [module.manifest.kv_rule for module in resolve_file(file).modules if module.manifest]


def test_it_is_not_merged(file: Path) -> None:
    with pytest.raises(ModuleError, match="with full weights does not hold: serve it as it is"):
        merge_adapter(file.parent / "math", file.parent / "base", file.parent / "merged")
    assert not (file.parent / "merged").exists()


def test_without_a_manifest_it_is_any_adapter_of_unknown_training(file: Path) -> None:
    (file.parent / "math" / "prefillshare.json").unlink()
    with pytest.raises(ModuleError, match=r"has no prefillshare\.json, so how it was trained is unknown"):
        resolve_file(file)

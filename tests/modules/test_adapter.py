"""An adapter is served when PEFT computes what the engine computes, and refused for anything else."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from prefillshare.errors import ModuleError
from prefillshare.modules import adapter_config
from prefillshare.modules.adapter import Adapter, check_adapter_fits, read_adapter
from prefillshare.modules.adapter_config import check_adapter_config, selects
from prefillshare.modules.adapter_files import check_text_files
from tests.support.random_models import make_adapter, make_base

WEIGHTS = "adapter_model.safetensors"
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("family") / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return make_adapter(tmp_path / "math", base, "math", seed=1)


def _check(adapter: Path, base: Path) -> Adapter:
    read = read_adapter(adapter, "math")
    check_adapter_fits(read, base, "math", "random-base")
    return read


def _edit_config(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _save_with_peft(base: Path, out: Path, convert: bool = False, **settings: Any) -> Path:
    """An adapter of rank 4 on two projections as PEFT writes it after a step of training."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings)
    adapted = get_peft_model(model, config)
    initial = out.parent / "initial"
    if convert:
        adapted.peft_config["default"].init_lora_weights = True
        adapted.save_pretrained(str(initial))
        adapted.peft_config["default"].init_lora_weights = settings["init_lora_weights"]
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    adapted.save_pretrained(str(out), path_initial_model_for_weight_conversion=str(initial) if convert else None)
    return out


def _differences(base: Path, adapter: Path) -> Iterator[float]:
    """For each changed layer: how far PEFT's merged weights are from W + alpha / r * B A over the base's own W."""
    own = load_file(base / "model.safetensors")
    matrices = load_file(adapter / WEIGHTS)
    config = json.loads((adapter / "adapter_config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    for layer in read_adapter(adapter, "math").layers:
        a, b = (matrices[f"base_model.model.{layer}.lora_{side}.weight"] for side in "AB")
        expected = own[f"{layer}.weight"] + config["lora_alpha"] / config["r"] * b @ a
        yield float(np.abs(merged[f"{layer}.weight"].numpy() - expected).max())


@pytest.mark.filterwarnings("ignore:.*eva")  # its data-driven start is not what is tested
@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_over_the_same_base_weights_are_served(base: Path, tmp_path: Path, start: bool | str) -> None:
    adapter = _save_with_peft(base, tmp_path / "math", init_lora_weights=start)
    assert len(_check(adapter, base).layers) == 4
    assert max(_differences(base, adapter)) < 1e-5


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_initialisations_that_change_the_base_are_refused(base: Path, tmp_path: Path, start: str) -> None:
    adapter = _save_with_peft(base, tmp_path / "math", init_lora_weights=start)
    with pytest.raises(ModuleError, match=rf"init_lora_weights = '{start}'.*path_initial_model_for_weight_conversion"):
        read_adapter(adapter, "math")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter_config, "_PURE_STARTS", {start})
        assert max(_differences(base, adapter)) > 1e-3


@pytest.mark.filterwarnings("ignore:.*changes the base weights of the model")  # PEFT's own advice to do this
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_converted_adapter_is_served(base: Path, tmp_path: Path, start: str) -> None:
    adapter = _save_with_peft(base, tmp_path / "math", convert=True, init_lora_weights=start)
    assert _check(adapter, base).rank == 8
    assert max(_differences(base, adapter)) < 1e-5


def test_the_scale_that_is_advised_for_rank_stabilised_adapters_is_theirs(base: Path, tmp_path: Path) -> None:
    adapter = _save_with_peft(base, tmp_path / "math", use_rslora=True)
    with pytest.raises(ModuleError) as caught:
        read_adapter(adapter, "math")
    advised = json.loads(
        "{" + str(caught.value).partition("write ")[2].partition(" into")[0].replace(" and", ",") + "}"
    )
    before = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    _edit_config(adapter, **advised)
    assert max(_differences(base, adapter)) < 1e-5
    after = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    layer = next(iter(_check(adapter, base).layers)) + ".weight"
    assert torch.allclose(before.state_dict()[layer], after.state_dict()[layer], atol=1e-6)


def test_every_field_of_peft_is_known() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields - adapter_config._WITHOUT_EFFECT - adapter_config._RULES.keys() == set()


def test_what_peft_writes_by_itself_is_accepted() -> None:
    check_adapter_config(json.loads(json.dumps(LoraConfig(**PLAIN | {"peft_type": None}).to_dict(), default=list)), "m")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("init_lora_weights", "corda", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "lora_ga", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "loftq", "init_lora_weights = true"),
        ("init_lora_weights", "OLoRA", "init_lora_weights = 'OLoRA'"),
        ("init_lora_weights", "tomorrow", "this version does not know"),
        ("use_rslora", True, '"lora_alpha": 45.25483399593904'),
        ("alpha_pattern", {"q_proj": 4}, "alpha_pattern"),
        ("lora_bias", True, "lora_bias"),
        ("bias", "lora_only", "biases"),
        ("layer_replication", [[0, 1], [0, 2]], "layer_replication"),
        ("target_parameters", ["mlp.experts.gate_up_proj"], "target_parameters"),
        ("trainable_token_indices", [3], "trainable_token_indices"),
        ("alora_invocation_tokens", [1, 2], "alora_invocation_tokens"),
        ("fan_in_fan_out", True, "fan_in_fan_out"),
        ("use_qalora", True, "use_qalora"),
        ("kasa_config", {}, "KaSA"),
        ("velora_config", {"num_groups": 2}, "VeLoRA"),
        ("monteclora_config", {"num_samples": 2}, "Monte Carlo"),
        ("use_bdlora", {"nblocks": 2}, "block-diagonal"),
        ("arrow_config", {"top_k": 2}, "router over several adapters"),
        ("megatron_config", {"hidden_size": 64}, "Megatron"),
        ("task_type", "SEQ_CLS", "only text generation"),
        ("scale_by_depth", 0.5, "scale_by_depth = 0.5"),
        ("r", "8", "r = '8'"),
        ("r", None, "r = None"),
        ("lora_alpha", float("nan"), "lora_alpha = nan"),
        ("lora_alpha", None, "lora_alpha = None"),
        ("target_modules", None, "write a list of layer names"),
        ("target_modules", [], "write a list of layer names"),
    ],
)
def test_a_field_with_an_effect_is_refused(field: str, value: object, said: str) -> None:
    with pytest.raises(ModuleError) as caught:
        check_adapter_config({**PLAIN, field: value}, "math")
    assert said in str(caught.value)
    assert "'math'" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 16}},
        {"r": 1, "use_rslora": True},
        {"lora_dropout": 0.5, "revision": "main", "inference_mode": False, "task_type": None},
        {"eva_config": {"rho": 1.0}, "loftq_config": {"loftq_bits": 4}, "qalora_group_size": 32},
        {"a_switch_of_tomorrow": False, "a_list_of_tomorrow": None},
        {"lora_dtype": "bf16", "lorap_emb_lr": 1e-6},
    ],
)
def test_a_field_without_effect_is_accepted(changes: dict[str, object]) -> None:
    check_adapter_config({**PLAIN, **changes}, "math")


@pytest.mark.parametrize(
    "choice",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["proj"]},
        {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]},
        {"target_modules": ["model.layers.1.mlp.up_proj", "q_proj"], "layers_to_transform": [0]},
        {"target_modules": ["q_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj"], "layers_to_transform": []},
        {"target_modules": ["q_proj"], "layers_to_transform": [1, 10], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["blocks", "layers"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
        {"target_modules": ["up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*\.1\..*"},
        {"target_modules": r".*\.self_attn\.[qv]_proj"},
    ],
)
def test_layers_are_chosen_as_peft_does(choice: dict[str, Any]) -> None:
    known = {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None, "modules_to_save": None}
    settings = SimpleNamespace(**{**known, **choice, "target_parameters": None})
    layers = [f"model.layers.{i}.{part}" for i in (0, 1, 10) for part in ("self_attn.q_proj", "mlp.up_proj")]
    layers += ["model.layers.1.mlp.experts.0.up_proj", "lm_head"]
    for layer in layers:
        assert selects(choice, layer) == bool(check_target_module_exists(settings, layer)), layer


def _rewrite(adapter: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> None:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


def _rename(tensors: dict[str, Any], old: str, new: str) -> None:
    for name in [name for name in tensors if old in name]:
        tensors[name.replace(old, new)] = tensors.pop(name)


def _spoil(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0, 0] = np.nan


def _another(adapter: Path, name: str) -> None:
    (adapter / name).write_bytes((adapter / WEIGHTS).read_bytes())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda path: _another(path, "old.safetensors"),
            "the weights old.safetensors beside adapter_model.safetensors",
        ),
        (lambda path: _another(path, "model.safetensors"), "leave only adapter_model.safetensors"),
        (lambda path: (path / "gone.safetensors").symlink_to("nowhere"), "gone.safetensors"),
        (lambda path: (path / "model.safetensors.index.json").write_text("{}"), "model.safetensors.index.json"),
        (lambda path: (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-4]), "no complete"),
        (lambda path: (path / WEIGHTS).write_bytes(b"\x10" + bytes(7) + b'{"a":{"dtype":1}'), "no complete"),
        (lambda path: (path / WEIGHTS).rename(path / "adapter_model.bin"), "has no adapter_model.safetensors"),
        (lambda path: _rewrite(path, _spoil), "not finite"),
        (lambda path: _rewrite(path, lambda t: t.update({n: v.astype(np.int8) for n, v in t.items()})), "in I8"),
        (lambda path: _rewrite(path, lambda t: _rename(t, "_A.weight", "_A.default.weight")), "not a LoRA matrix"),
        (lambda path: _rewrite(path, lambda t: t.pop(next(n for n in t if "_B" in n))), "no matching pair"),
        (lambda path: _rewrite(path, lambda t: [t.pop(n) for n in [*t] if "layers.1." in n]), "weights are incomplete"),
        (lambda path: _edit_config(path, target_modules=["q_proj"]), "does not choose"),
        (lambda path: _edit_config(path, layers_to_transform=[0]), "does not choose"),
        (lambda path: _edit_config(path, exclude_modules=["o_proj"]), "does not choose"),
        (lambda path: _edit_config(path, exclude_modules="(", layers_pattern=3), "cannot be read"),
        (lambda path: (path / "adapter_config.json").write_bytes(b"\xef\xbb\xbf{}"), "BOM"),
        (lambda path: (path / "adapter_config.json").write_text("[" * 100_000), "cannot be read"),
    ],
)
def test_files_that_the_engine_would_load_otherwise_are_refused(
    adapter: Path, base: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(adapter)
    with pytest.raises(ModuleError) as caught:
        _check(adapter, base)
    assert said.replace("no complete", "complete safetensors file") in str(caught.value)


def test_a_layer_that_the_base_does_not_have_is_refused(adapter: Path, base: Path) -> None:
    targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    _edit_config(adapter, target_modules=[*targets, "fc1"])
    with pytest.raises(
        ModuleError, match="'fc1' in target_modules, and prefill module 'random-base' has no such layer"
    ):
        _check(adapter, base)


def test_a_path_that_the_engine_reads_as_a_pattern_is_refused(adapter: Path) -> None:
    odd = adapter.rename(adapter.parent / "run[1]")
    (adapter.parent / "run1").mkdir()
    _another(odd, "../run1/adapter_model.safetensors")  # what the engine would load instead
    with pytest.raises(ModuleError, match="rename the directory"):
        read_adapter(odd, "math")


def test_an_adapter_one_folder_below_is_pointed_out(adapter: Path) -> None:
    with pytest.raises(ModuleError, match=r"but one in math/: point path at that directory"):
        read_adapter(adapter.parent, "math")


def test_harmless_files_do_not_count(adapter: Path, base: Path, tmp_path: Path) -> None:
    token = next(entry for entry in json.loads((base / "tokenizer.json").read_text())["added_tokens"])
    (adapter / "added_tokens.json").write_text(json.dumps({token["content"]: token["id"]}))
    (adapter / "chat_template.jinja").write_bytes((base / "chat_template.jinja").read_bytes())
    (adapter / "checkpoint-10").mkdir()
    _another(adapter, "checkpoint-10/adapter_model.safetensors")
    blob = (adapter / WEIGHTS).rename(tmp_path / "blob")
    (adapter / WEIGHTS).symlink_to(blob)
    assert _check(adapter, base).rank == 8
    assert check_text_files(adapter, base, "math") == []


def test_text_files_that_differ_are_said(adapter: Path, base: Path) -> None:
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    (warning,) = check_text_files(adapter, base, "math")
    assert "another chat template" in warning
    (adapter / "added_tokens.json").write_text('{"<think>": 511}')
    with pytest.raises(ModuleError, match="adds tokens to the vocabulary, such as '<think>'"):
        check_text_files(adapter, base, "math")

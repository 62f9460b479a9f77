"""A module into codebooks: what comes out, how far it is from what went in, interrupted runs, refusals."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefillshare.bench import reference
from prefillshare.codebook.checkpoint import plain_tensors
from prefillshare.codebook.reference import dequantise
from prefillshare.codebook.section import codebook_shape
from prefillshare.codebook.shape import CodebookShape
from prefillshare.config import load_deployment
from prefillshare.errors import ModuleError
from prefillshare.modules.codebook_rule import check_whole, refuse_as_base
from prefillshare.modules.deployment import resolve
from prefillshare.modules.manifest import ModuleManifest, read_manifest
from prefillshare.modules.merge import merge_adapter
from prefillshare.quantize import layers
from prefillshare.quantize.clusters import Clustering, quantise, round_to_nearest
from prefillshare.quantize.layers import Recipe, quantise_module, sizes_of
from prefillshare.quantize.source import WeightSource
from prefillshare.training.model import load_base
from prefillshare.training.reference import decode
from tests.support.random_models import make_family

SMALL = CodebookShape(code_bits=6, group=32)
RECIPE = Recipe(source="random", shape=SMALL, clustering=Clustering(num_samples=2048, num_rounds=6))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_family(tmp_path, ("math",))
    return tmp_path


def source_of(folder: Path) -> WeightSource:
    return WeightSource(folder / "base", folder / "math")


def manifest_of(folder: Path) -> ModuleManifest:
    manifest = read_manifest(folder / "math")
    assert manifest is not None
    return replace(manifest, kind="full")


def test_base_and_adapter_become_the_merged_module_in_codebooks(folder: Path) -> None:
    merged = load_file(merge_adapter(folder / "math", folder / "base", folder / "merged") / "model.safetensors")

    out = quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder))

    plain = dict(plain_tensors(out, torch.float32))
    assert codebook_shape(out) == SMALL
    assert plain.keys() == merged.keys()
    for name, weight in merged.items():
        if name.endswith("_proj.weight"):
            assert 0 < float((plain[name] - weight).norm() / weight.norm()) < 0.6
        else:
            assert torch.equal(plain[name], weight.float())
    loaded = load_base(out, torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in plain.items())


def test_layers_that_read_the_same_input_have_the_same_codebooks(folder: Path) -> None:
    out = quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder))

    tensors = load_file(out / "layer-00001.safetensors")
    q, k, v, o = (tensors[f"model.layers.1.self_attn.{name}_proj.codebooks"] for name in "qkvo")
    assert torch.equal(q, k)
    assert torch.equal(q, v)
    assert not torch.equal(q, o)


def test_a_killed_run_goes_on_and_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantise_module(source_of(folder), folder / "whole", RECIPE, manifest_of(folder))
    written: list[int] = []
    write_layer = layers._write_layer

    def die_at_the_second(source: WeightSource, layer: int, *rest: object) -> None:
        written.append(layer)
        if written == [0, 1]:
            raise KeyboardInterrupt
        write_layer(source, layer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(layers, "_write_layer", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder))
    assert not (folder / "small").exists()

    resumed = quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder))

    assert written == [0, 1, 1]
    for file in whole.glob("*.safetensors"):
        assert file.read_bytes() == (resumed / file.name).read_bytes()


def test_another_recipe_does_not_go_on_from_the_first(folder: Path) -> None:
    (folder / ".small.quantizing").mkdir()
    layers._open(folder / ".small.quantizing", RECIPE)

    with pytest.raises(ModuleError, match="was begun with another recipe or other weights: remove it"):
        quantise_module(source_of(folder), folder / "small", replace(RECIPE, source="other"), manifest_of(folder))


def test_what_is_there_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(ModuleError, match="base exists: choose another directory"):
        quantise_module(source_of(folder), folder / "base", RECIPE, manifest_of(folder))


def test_inputs_that_do_not_divide_are_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(ModuleError, match=r"q_proj has 64 inputs, which do not divide into groups of g = 128"):
        quantise_module(source_of(folder), folder / "small", Recipe(source="random"), manifest_of(folder))
    assert not (folder / ".small.quantizing").exists()


def test_sizes_are_known_before_and_are_those_of_the_files(folder: Path) -> None:
    source = source_of(folder)
    sizes = sizes_of(source, SMALL)
    out = quantise_module(source, folder / "small", RECIPE, manifest_of(folder))

    stored = {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}
    coded = [tensor for name, tensor in stored.items() if name.rpartition(".")[2] != "weight"]
    assert sizes.linear_bytes == sum(tensor.nbytes for tensor in coded)
    assert sizes.other_bytes == sum(tensor.nbytes for tensor in stored.values()) - sizes.linear_bytes


@pytest.mark.parametrize("shape", [CodebookShape(), CodebookShape(num_codebooks=2, segment=8)])
def test_codebooks_lose_less_than_two_bits_rounded(shape: CodebookShape) -> None:
    torch.manual_seed(1)
    weight, moments = torch.randn(512, 512) * (torch.rand(512, 1) + 0.1), torch.rand(512) ** 4 * 10
    how = Clustering(num_samples=1 << 14, num_rounds=10)

    def loss(found: torch.Tensor) -> float:
        return float((((found - weight) ** 2) * moments).sum() / ((weight**2) * moments).sum())

    weighted = loss(dequantise(quantise([weight], moments, shape, how)[0]))
    plain = loss(dequantise(quantise([weight], None, shape, how)[0]))
    rounded = loss(round_to_nearest(weight, 2, 128))
    print(f"weighted {weighted:.4f}, all alike {plain:.4f}, rounded {rounded:.4f}")
    assert weighted < plain < rounded


def test_it_is_served_as_a_decode_module_and_as_nothing_else(folder: Path) -> None:
    out = quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder))
    file = folder / "pd.toml"
    text = 'name = "pd"\ntopology = "disaggregated"\n[prefill]\nname = "base"\npath = "{}"\n'
    decode = f'[[decode]]\nname = "math"\nkind = "full"\npath = "{out}"\n[engine]\ndevice = "cpu"\n'

    file.write_text(text.format(folder / "base") + decode)
    assert resolve(load_deployment(file)).modules[0].path == out

    file.write_text(text.format(out) + decode)
    with pytest.raises(ModuleError, match=r"'base' .* has 2-bit codebook weights and cannot be the prefill module"):
        resolve(load_deployment(file))
    with pytest.raises(ModuleError, match="cannot be the base of a merge"):
        merge_adapter(folder / "math", out, folder / "merged")
    with pytest.raises(ModuleError, match="cannot be trained from"):
        refuse_as_base(out, "small", "trained from")


@pytest.mark.parametrize(("key", "value"), [("g", 16), ("v", 8), ("m", 2), ("b", 7)])
def test_weights_that_config_json_does_not_describe_are_refused(folder: Path, key: str, value: int) -> None:
    out = quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder))
    check_whole(out, "math")
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"][key] = value
    (out / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModuleError, match=rf"{key} = {value}.*does not say: quantise the module again"):
        check_whole(out, "math")


def test_verify_and_bench_compare_with_the_expanded_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, prompt = quantise_module(source_of(folder), folder / "small", RECIPE, manifest_of(folder)), [*range(20, 40)]
    module = {"path": str(out), "is_adapter": False, "kv_rule": "own-answers", "sharing_ratio": 1.0}
    asked = [{"module": "math", "prompt": prompt, "num_tokens": 6}]
    questions = {"base": str(folder / "base"), "modules": {"math": module}, "dtype": "float32", "asked": asked}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(questions)))

    reference.main()

    full, base = load_base(out, torch.float32).eval(), load_base(folder / "base", torch.float32).eval()
    expected = list(decode(full, [prompt], max_new_tokens=6, end_token=-1, prefill_model=base))
    assert json.loads(capsys.readouterr().out) == expected

"""`prefillshare quantize` on a random family: what it writes and reports, interrupted runs, what it refuses."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefillshare.codebook.section import codebook_shape
from prefillshare.config import load_quantisation
from prefillshare.errors import ConfigError, ModuleError, PrefillShareError, TrainingError
from prefillshare.modules.manifest import ModuleManifest, read_manifest
from prefillshare.modules.merge import merge_adapter
from prefillshare.quantize import layers, plan
from prefillshare.quantize.run import Quantise
from prefillshare.training.finetune.output import RunDirectory
from tests.support.random_models import make_adapter, make_base, make_family
from tests.support.training_runs import Stopped, Watcher, stop_at, write_rows

FILE = """
name = "small"
output = "{output}"

[base]
path = "{base}"

[module]
path = "{module}"

[data]
file = "rows.jsonl"

[data.columns]
prompt = "question"
answer = "answer"

[codebooks]
b = 5
g = 32
samples = 2048
rounds = 4

[moments]
rows = 4

[tuning]
steps = 4
size = 2
save_steps = 2

[report]
rows = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quantize")
    make_family(directory, ("math",))
    write_rows(directory / "rows.jsonl")
    return directory


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def write_file(folder: Path, name: str, *, module: str = "math", base: str = "base", **changes: str) -> Path:
    """A quantisation file with the output `name`; `changes` replaces a line that begins with the key."""
    text = FILE.format(output=name, base=base, module=module)
    for key, line in changes.items():
        lines = [line if old.startswith(f"{key} =") else old for old in text.splitlines()]
        text = "\n".join(lines) + "\n"
    file = folder / f"{name}.toml"
    file.write_text(text)
    assert tomllib.loads(text)
    return file


def quantise(file: Path, *, resume: bool = False, watcher: Watcher | None = None) -> Path:
    return Quantise(load_quantisation(file), watcher or Watcher()).run(resume=resume)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run that nothing interrupted."""
    return quantise(write_file(folder, "whole"))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_a_run_leaves_a_module_that_says_where_it_came_from(folder: Path, whole: Path) -> None:
    manifest, before = read_manifest(whole), read_manifest(folder / "math")
    report = json.loads((whole / "report.json").read_text())
    assert manifest is not None
    assert before is not None
    assert (manifest.name, manifest.kind) == ("small", "full")
    assert manifest.prefill_fingerprint == before.prefill_fingerprint
    quantised = manifest.training["quantised"]
    assert quantised["config"]["codebooks"]["b"] == 5
    assert quantised["data"]["sha256"]
    assert before.prefill_fingerprint in quantised["module_sha256"]
    assert manifest.training["before"] == before.training
    assert quantised["report"] == report
    assert codebook_shape(whole) == load_quantisation(folder / "whole.toml").codebooks.shape
    assert report["held_out_loss"].keys() == {"full", "k-means", "module"}
    assert report["held_out_loss"]["module"] != report["held_out_loss"]["k-means"]


def test_tuning_changes_codebooks_scales_and_norms_and_no_codes(whole: Path) -> None:
    before, after = weights(whole / "run" / "k-means"), weights(whole)
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"codebooks", "scales", "weight"}
    others = [name for name in before if not torch.equal(before[name], after[name]) and name.endswith(".weight")]
    assert all("norm" in name for name in others)


class _Killed(Exception):
    pass


def _die(*_: object, **__: object) -> None:
    raise _Killed


def test_layers_that_are_tuned_one_by_one_go_on_after_a_kill(folder: Path) -> None:
    by_layer = {"size": 'size = 2\nby = "layer"'}
    undisturbed = quantise(write_file(folder, "layers", **by_layer))
    file, steps = write_file(folder, "killed-layers", **by_layer), list[int]()
    # Of two layers with four steps each, the second one begins anew.
    with pytest.raises(Stopped):
        quantise(file, watcher=stop_at(6))
    resumed = quantise(file, resume=True, watcher=Watcher(lambda report: steps.append(report.step)))

    assert steps == [5, 6, 7, 8]
    assert not (resumed / "run" / "layers" / "states").exists()
    before, first, again = weights(resumed / "run" / "k-means"), weights(undisturbed), weights(resumed)
    assert {name.rpartition(".")[2] for name in before if not torch.equal(before[name], again[name])} == {
        "codebooks",
        "scales",
        "weight",
    }
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    for layer in range(2):
        q, k, v = (again[f"model.layers.{layer}.self_attn.{name}_proj.codebooks"] for name in "qkv")
        assert torch.equal(q, k)
        assert torch.equal(q, v)


@pytest.mark.parametrize("place", ["moments", "clustering", "tuning"])
def test_a_run_that_was_killed_goes_on_and_gives_the_same(
    folder: Path, whole: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file(folder, f"killed-{place}")
    watcher = stop_at(3) if place == "tuning" else Watcher()
    with monkeypatch.context() as patch:
        if place == "moments":
            patch.setattr("prefillshare.quantize.run.quantise_module", _die)
        if place == "clustering":
            patch.setattr(layers, "_finish", _die)
        with pytest.raises((_Killed, Stopped)):
            quantise(file, watcher=watcher)
    with pytest.raises(TrainingError, match="continue it with --resume, or choose another output"):
        quantise(file)

    steps: list[int] = []
    resumed = quantise(file, resume=True, watcher=Watcher(lambda report: steps.append(report.step)))

    # Killed after step 3, it goes on behind the checkpoint of step 2.
    assert steps == ([3, 4] if place == "tuning" else [1, 2, 3, 4])
    again, first = weights(resumed), weights(whole)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert json.loads((resumed / "report.json").read_text()) == json.loads((whole / "report.json").read_text())


def test_gradient_checkpointing_gives_the_same_module(folder: Path, whole: Path) -> None:
    checkpointed = quantise(write_file(folder, "again", save_steps="save_steps = 2\ngradient_checkpointing = true"))
    ours, theirs = weights(checkpointed), weights(whole)
    largest = max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in theirs)
    print(f"largest difference {largest:.1e}")
    assert largest < 1e-4


def test_another_recipe_does_not_go_on_from_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        quantise(write_file(folder, "changed"), watcher=stop_at(1))
    with pytest.raises(TrainingError, match=r"started with config.codebooks.rounds = 4 and now it is 5: put it back"):
        quantise(write_file(folder, "changed", rounds="rounds = 5"), resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_begins_by_keeping_others_out(folder: Path, resume: bool) -> None:
    file = write_file(folder, "taken")
    with RunDirectory(folder / "taken").held(makes=True), pytest.raises(TrainingError, match="another run writes to"):
        quantise(file, resume=resume)


def test_without_data_it_is_k_means_alone(folder: Path) -> None:
    text = write_file(folder, "plain", steps="steps = 0").read_text()
    cut = text.index("[data]"), text.index("[codebooks]")
    text = (text[: cut[0]] + text[cut[1] :]).replace("rows = 4", "rows = 0").replace("rows = 2\n", "rows = 0\n")
    (folder / "plain.toml").write_text(text)

    out = quantise(folder / "plain.toml")

    assert json.loads((out / "report.json").read_text())["held_out_loss"] == {}
    kept = weights(out / "run" / "k-means")
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights(out).items())


def test_a_dry_run_says_sizes_and_memory_and_leaves_nothing(folder: Path) -> None:
    found = Quantise(load_quantisation(write_file(folder, "dry")), Watcher()).plan()

    assert not (folder / "dry").exists()
    assert found.figures["num_used"] == 12
    assert found.figures["num_held_out"] == 2
    stages = [found.figures[f"{stage}_bytes"] for stage in ("clustering", "tuning", "measuring")]
    assert found.tuned_by == "module"
    assert found.figures["memory_bytes"] == max(stages)
    assert any("bits each" in line for line in found.lines)


def test_a_dry_run_over_a_start_that_ended_leaves_it_as_it_is(folder: Path) -> None:
    left = folder / "ended" / "run" / "partial-data.npz"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert Quantise(load_quantisation(write_file(folder, "ended")), Watcher()).plan().lines
    assert left.read_bytes() == b"half"


def test_layers_are_tuned_one_by_one_where_the_module_does_not_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "device_memory", lambda: ("CPU", 4 * 2**30))
    found = Quantise(load_quantisation(write_file(folder, "narrow", size="size = 100000")), Watcher()).plan()

    assert found.tuned_by == "layer"
    assert found.figures["memory_bytes"] < 4 * 2**30 < found.need.module_tuning_bytes
    assert any("for each of 2 layers (the whole module needs" in line for line in found.lines)
    assert any(line.startswith("disk ") for line in found.lines)


def test_a_run_that_does_not_fit_is_refused_with_the_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "device_memory", lambda: ("CPU", 4 * 2**30))
    whole_module = 'size = 100000\nby = "module"'
    with pytest.raises(ModuleError, match=r'needs .* and this machine has 4\.00 GiB; write by = "layer" under'):
        quantise(write_file(folder, "large", size=whole_module))
    monkeypatch.setattr(plan, "device_memory", lambda: ("CPU", 2**29))
    with pytest.raises(ModuleError, match=r"this machine has 0\.50 GiB: use a larger machine"):
        quantise(write_file(folder, "large", size=whole_module))
    assert not (folder / "large").exists()


def test_hidden_states_that_do_not_fit_on_the_disk_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "disk_usage", lambda _: SimpleNamespace(free=2**10))
    with pytest.raises(
        ModuleError, match=r"needs .* of disk for hidden states and .* has 0\.0 MiB free: choose another"
    ):
        quantise(write_file(folder, "no-disk", size='size = 2\nby = "layer"'))
    assert not (folder / "no-disk").exists()


Refusal = tuple[str, dict[str, str], type[PrefillShareError], str]
REFUSALS: list[Refusal] = [
    ("unknown", {"samples": "sample = 5"}, ConfigError, r"\[codebooks\] has the unknown key 'sample': did you mean"),
    ("shape", {"b": "b = 9"}, ConfigError, r"\[codebooks\]: codebooks with b = 9: it must be 1 to 8"),
    ("group", {"g": "g = 48"}, ModuleError, r"which do not divide into groups of g = 48: choose a g that divides"),
    ("problems", {"rows": "problems = 5"}, ConfigError, r"has the unknown key 'problems'"),
    ("held-out", {"size": "size = 0"}, ConfigError, r"\[tuning\]: size is 0: it must be at least 1"),
    ("base", {"module": "base"}, ModuleError, r"is a prefill module, which stays in full precision"),
    ("rows", {"file": 'file = "none.jsonl"'}, ConfigError, r"data file 'none.jsonl' does not exist"),
    ("nowhere", {"module": "nowhere"}, ConfigError, r"path 'nowhere' under \[module\] does not exist"),
]


@pytest.mark.parametrize(("name", "changes", "kind", "message"), REFUSALS, ids=[name for name, *_ in REFUSALS])
def test_what_cannot_be_quantised_is_refused(
    folder: Path, name: str, changes: dict[str, str], kind: type[PrefillShareError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        quantise(write_file(folder, f"refused-{name}", **changes))
    assert not (folder / f"refused-{name}").exists()


def test_modules_that_are_none_are_refused(folder: Path, whole: Path) -> None:
    with pytest.raises(ModuleError, match="has 2-bit codebook weights already: name the module that it was made from"):
        quantise(write_file(folder, "twice", module="whole"))
    with pytest.raises(ModuleError, match="cannot be the prefill module of a module that is quantised"):
        quantise(write_file(folder, "on-small", base="whole"))


Spoil = Callable[[dict[str, torch.Tensor], dict[str, object]], object]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "nan": (
        lambda tensors, _: tensors["model.layers.1.mlp.up_proj.weight"][3, 5:6].fill_(float("nan")),
        r"has infinities or NaN in model\.layers\.1\.mlp\.up_proj\.weight",
    ),
    "float8": (
        lambda tensors, _: tensors.update({"model.norm.weight": tensors["model.norm.weight"].to(torch.float8_e4m3fn)}),
        r"is quantised already \(model\.norm\.weight is stored as F8_E4M3\)",
    ),
    "scales-elsewhere": (
        lambda _, config: config.update(quantization_config={"quant_method": "fp8"}),
        r"is quantised already \('fp8'\): name a module whose weights are float32",
    ),
    "narrow": (
        lambda tensors, _: tensors.update({"model.norm.weight": torch.ones(60)}),
        r"has model\.norm\.weight of size 60 and its config\.json says 64",
    ),
    "without": (
        lambda tensors, _: tensors.pop("model.layers.0.input_layernorm.weight"),
        r"has no tensor model\.layers\.0\.input_layernorm\.weight",
    ),
    "huge": (
        lambda tensors, _: tensors["model.layers.0.mlp.down_proj.weight"].mul_(1e8),
        "has weights too large for scales in float16",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_weights_that_are_none_are_refused(folder: Path, name: str) -> None:
    spoil, message = SPOILT[name]
    module = merge_adapter(folder / "math", folder / "base", folder / f"spoilt-{name}")
    tensors = load_file(module / "model.safetensors")
    config = json.loads((module / "config.json").read_text())
    spoil(tensors, config)
    save_file(tensors, module / "model.safetensors", {"format": "pt"})
    (module / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModuleError, match=message):
        quantise(write_file(folder, f"from-{name}", module=module.name, steps="steps = 0", rows="rows = 0"))


@pytest.mark.parametrize("by", ["module", "layer"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_base_of_half_numbers_is_read_as_it_is(folder: Path, dtype: torch.dtype, by: str) -> None:
    base = make_base(folder / f"{dtype}".removeprefix("torch."))
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    make_adapter(folder / f"on-{base.name}", base, "math", seed=1)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": base.name, "torch_dtype": base.name}))
    changes = {"size": f'size = 2\nby = "{by}"', "steps": "steps = 1"}

    out = quantise(write_file(folder, f"{base.name}-{by}", base=base.name, module=f"on-{base.name}", **changes))

    made = weights(out)
    assert made["model.embed_tokens.weight"].dtype == dtype
    assert torch.equal(made["model.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    assert all(tensor.isfinite().all() for tensor in made.values())


def test_full_weights_give_the_same_codes_as_base_and_adapter(folder: Path, whole: Path) -> None:
    merge_adapter(folder / "math", folder / "base", folder / "merged")
    steps = {"steps": "steps = 0", "rows": "rows = 0"}
    first = quantise(write_file(folder, "from-adapter", **steps))
    second = quantise(write_file(folder, "from-full", module="merged", **steps))

    ours, theirs = weights(first), weights(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.endswith(".codes"))


def test_the_suite_is_asked_once_of_each(folder: Path) -> None:
    asked: list[tuple[str, str]] = []

    def judge(base: Path, module: Path, manifest: ModuleManifest) -> dict[str, object]:
        asked.append((module.name, manifest.kind))
        if len(asked) == 2:
            raise _Killed
        return {"num_right": len(asked), "num_problems": 9}

    file = write_file(folder, "judged", steps="steps = 0")
    wanted = load_quantisation(file)
    wanted = replace(wanted, report=replace(wanted.report, suite="tiny-math"))
    with pytest.raises(_Killed):
        Quantise(wanted, Watcher(), judge).run(resume=False)
    out = Quantise(wanted, Watcher(), judge).run(resume=True)

    assert asked == [("math", "lora"), ("k-means", "full"), ("k-means", "full"), ("module", "full")]
    found = json.loads((out / "report.json").read_text())["accuracy"]
    assert {name: value["num_right"] for name, value in found.items()} == {"full": 1, "k-means": 3, "module": 4}


@pytest.mark.parametrize("by", ["module", "layer"])
def test_what_the_suite_is_asked_of_says_itself_what_it_is(folder: Path, by: str) -> None:
    """The judge loads each directory as `launch` would, which compares its manifest."""
    found: list[tuple[str, str]] = []

    def judge(base: Path, module: Path, manifest: ModuleManifest) -> dict[str, object]:
        own = read_manifest(module)
        assert own is not None
        assert own.kind == manifest.kind
        found.append((module.name, own.kind))
        return {"num_right": 0, "num_problems": 9}

    wanted = load_quantisation(write_file(folder, f"judged-by-{by}", size=f'size = 2\nby = "{by}"'))
    wanted = replace(wanted, report=replace(wanted.report, suite="tiny-math"))
    Quantise(wanted, Watcher(), judge).run(resume=False)
    assert found == [("math", "lora"), ("k-means", "full"), ("module", "full")]

"""The whole pipeline on a micro recipe: everything is made, a second call makes nothing, a killed one continues."""

import json
from pathlib import Path

import pytest
import torch

from prefillshare.errors import ModuleError, TrainingError
from prefillshare.modules.adapter import LoraShape
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest
from prefillshare.modules.merge import merge_adapter
from prefillshare.tiny import build
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.tiny.build import BuildPlan, TinyBuild, check_out, wipe
from prefillshare.tiny.recipe import ModelShape, Schedule, TinyRecipe
from prefillshare.training.model import load_adapter, load_base
from prefillshare.training.progress import LineReporter

RUN = Schedule(num_tokens=2500, batch_tokens=1200, learning_rate=1e-3, warmup_steps=1, checkpoint_steps=1)
RECIPE = TinyRecipe(
    vocab_size=700,
    num_tokenizer_documents=60,
    num_threads=1,
    model=ModelShape(
        hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, intermediate_size=32, max_positions=2048
    ),
    lora=LoraShape(rank=2, alpha=4),
    base=RUN,
    tuning=RUN,
)


def plan_at(root: Path) -> BuildPlan:
    return BuildPlan(recipe=RECIPE, out=root / "out", work=root / "work")


def build_at(root: Path) -> TinyBuild:
    made = TinyBuild(plan_at(root), LineReporter())
    made.run()
    return made


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("family")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "NUM_PROBES", 1)
        patch.setattr("prefillshare.tiny.probe.MAX_NEW_TOKENS", 2)
        build_at(root)
    return root


def weights(root: Path) -> dict[str, str]:
    return json.loads((root / "out" / "build.json").read_text())["weights"]


def test_makes_base_modules_and_rivals_with_manifests(family):
    out = family / "out"
    fingerprint = prefill_fingerprint(out / "base")
    kinds = {"base": "language-modelling", "math": "cache-conditioned", "naive/code": "full-ft"}
    for name, objective in kinds.items():
        manifest = read_manifest(out / name)
        assert (manifest.objective, manifest.prefill_fingerprint) == (objective, fingerprint)
    assert len(weights(family)) == 7
    config = json.loads((out / "tool" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "prefillshare/tiny-base"


def test_second_call_makes_nothing(family, capsys):
    before = {path: path.stat().st_mtime_ns for path in (family / "out").rglob("*.safetensors")}
    build_at(family)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "already there" in capsys.readouterr().err


def test_killed_build_ends_with_the_same_base(family, tmp_path, monkeypatch):
    plan = plan_at(tmp_path)
    real = build.ordinary_loss
    calls = []

    def dies_in_the_second_step(model, batch):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, batch)

    monkeypatch.setattr(build, "ordinary_loss", dies_in_the_second_step)
    with pytest.raises(KeyboardInterrupt):
        TinyBuild(plan, LineReporter()).run()
    again = TinyBuild(plan, LineReporter())
    monkeypatch.setattr(TinyBuild, "steps", lambda self, steps=TinyBuild.steps: dict(list(steps(self).items())[:3]))
    again.run()
    assert weights(tmp_path)["base/model.safetensors"] == weights(family)["base/model.safetensors"]


def test_other_recipes_and_foreign_directories_are_refused(family, tmp_path):
    other = BuildPlan(recipe=RECIPE, out=family / "out", work=family / "work", scale=0.5)
    with pytest.raises(TrainingError, match="another recipe"):
        TinyBuild(other, LineReporter()).run()
    foreign = BuildPlan(recipe=RECIPE, out=family / "out", work=tmp_path / "none")
    with pytest.raises(TrainingError, match="already holds"):
        check_out(foreign)
    wipe(plan_at(tmp_path))


def test_answers_in_process(family):
    answers = TinyAnswers(family / "out", "math").answer([[{"role": "user", "content": "hi"}]] * 2)
    assert len(answers) == 2
    assert answers[0] == answers[1]


def test_merged_module_has_the_logits_of_the_adapter(family, tmp_path):
    out = family / "out"
    merged = merge_adapter(out / "math", out / "base", tmp_path / "merged", dtype="float32")
    tokens = torch.arange(5, 60)[None]
    with torch.no_grad():
        wanted = load_adapter(load_base(out / "base", torch.float32), out / "math")(input_ids=tokens).logits
        found = load_base(merged, torch.float32)(input_ids=tokens).logits
    difference = float((wanted - found).abs().max())
    print(f"logits differ by at most {difference:.2e}")
    assert difference < 1e-4
    manifest = read_manifest(merged)
    assert (manifest.kind, manifest.objective) == ("full", "cache-conditioned")
    assert manifest.prefill_fingerprint == prefill_fingerprint(out / "base")
    assert (merged / "chat_template.jinja").read_text() == (out / "base" / "chat_template.jinja").read_text()


def test_merge_refuses_what_does_not_fit(family, tmp_path):
    out = family / "out"
    target = tmp_path / "merged"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(ModuleError, match="--force"):
        merge_adapter(out / "math", out / "base", target)
    assert (target / "mine.txt").read_text() == "keep"
    with pytest.raises(ModuleError, match="there is no directory"):
        merge_adapter(out / "maths", out / "base", tmp_path / "x")
    with pytest.raises(ModuleError, match="kind 'prefill'"):
        merge_adapter(out / "base", out / "base", tmp_path / "x")
    with pytest.raises(ModuleError, match="one of the inputs"):
        merge_adapter(out / "math", out / "base", out, force=True)
    other = merge_adapter(out / "math", out / "base", tmp_path / "other")
    with pytest.raises(ModuleError, match="was trained on prefill module"):
        merge_adapter(out / "math", other, tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "other"]
    assert merge_adapter(out / "math", out / "base", target, force=True) == target
    assert not (target / "mine.txt").exists()

"""Every mistake in a training file gives one sentence with the value and the fix; the recipes are the paper's runs."""

import json
import tomllib
from pathlib import Path

import pytest

from prefillshare.config import load_training
from prefillshare.config.schema import Deployment, PrefillModule
from prefillshare.config.tables import build
from prefillshare.config.training import BaseModel, Training
from prefillshare.errors import ConfigError
from prefillshare.tiny.language.calls import NUM_ROWS, call_rows

MODELS = Path(__file__).parents[2] / "models"
RECIPES = MODELS / "recipes"
FILE = """
name = "sums"
output = "out"
kind = "lora"

[base]
path = "base"

[data]
file = "rows.jsonl"

[data.columns]
prompt = "question"
answer = "answer"

[optimizer]
learning_rate = 1e-4

[lora]
rank = 8
"""


@pytest.fixture
def training_file(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "rows.jsonl").touch()
    file = tmp_path / "train.toml"
    file.write_text(FILE)
    return file


def test_a_valid_file_gives_absolute_paths_and_the_papers_defaults(training_file: Path) -> None:
    training = load_training(training_file)
    assert training.base.path == training_file.parent / "base"
    assert training.data.file == training_file.parent / "rows.jsonl"
    assert training.output == training_file.parent / "out"
    assert (training.batch.size, training.batch.accumulation, training.batch.max_tokens) == (1, 16, 1024)
    assert (training.objective, training.evaluation.sharing_ratio) == ("cache-conditioned", 1.0)
    assert training.adapter.rank == 8
    assert training.optimizer.epochs == 1.0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("learning_rate", "learning_rat", "[optimizer] has the unknown key 'learning_rat': did you mean"),
        ("[optimizer]", "[optimiser]", "the unknown key 'optimiser': did you mean 'optimizer'?"),
        ("learning_rate = 1e-4", "", "[optimizer] has no 'learning_rate'"),
        ("1e-4", "-1.0", "learning_rate is -1.0: it must be more than 0"),
        ("1e-4", '1e-4\nschedule = "cosin"', "schedule is 'cosin': did you mean 'cosine'?"),
        ("1e-4", "1e-4\nwarmup_ratio = 3.0", "warmup_ratio is 3.0: it must lie between 0 and 1"),
        ('kind = "lora"', 'kind = "ful"', "kind is 'ful': did you mean 'full'?"),
        ('kind = "lora"', 'kind = "full"', '[lora] stands beside kind = "full": remove the table'),
        ('kind = "lora"', 'kind = "lora"\nobjective = "sft"', "objective is 'sft': it must be one of"),
        ('path = "base"', 'path = "bas"', "path 'bas' of the base does not exist"),
        ('path = "base"', 'path = "base"\nhub = "a/b"', "has both path and hub"),
        ('path = "base"', "", "has neither path nor hub"),
        ('path = "base"', 'path = "base"\nrevision = "v1"', "revision 'v1' but no hub"),
        ('file = "rows.jsonl"', 'file = "row.jsonl"', "data file 'row.jsonl' does not exist"),
        ('file = "rows.jsonl"', "", "there is neither file nor hub"),
        ('file = "rows.jsonl"', 'source = "gsm8k"', "source 'gsm8k' has its own mapping"),
        ('file = "rows.jsonl"', 'source = "gsm8"', "source is 'gsm8': did you mean 'gsm8k'?"),
        ('file = "rows.jsonl"', 'file = "rows.jsonl"\nsplit = "test"', "file stands beside subset, split or revision"),
        ('[data.columns]\nprompt = "question"\nanswer = "answer"', "", "no mapping is given: add [data.columns]"),
        ('answer = "answer"', "", 'the mapping is not complete: write messages = "..."'),
        ('answer = "answer"', 'answer = "answer"\nmessages = "m"', "messages stands beside prompt"),
        ("rank = 8", "rank = 0", "rank is 0: it must be at least 1"),
        ("rank = 8", 'targets = ["lm_head"]', "targets has 'lm_head', which the engine cannot serve"),
        ("rank = 8", "rank = 8\n[batch]\nsize = 0", "size is 0: it must be at least 1"),
        ("rank = 8", "rank = 8\n[run]\nsave_steps = 15", "save_steps 15 is no multiple of log_steps 10"),
        ("rank = 8", "rank = 8\n[evaluation]\nsharing_ratio = 50.0", "sharing_ratio is 50.0: it must lie between 0"),
        ("rank = 8", "rank = 8\n[evaluation]\nrows = -1", "rows is -1: it must be 0 or more"),
        ("rank = 8", "targets = []", "targets is empty: name at least one layer"),
        ('kind = "lora"', 'kind = "lora"\nobjective = "icarius"', "objective is 'icarius': did you mean 'icarus'?"),
        (
            'kind = "lora"',
            'kind = "lora"\nsharing_ratio = 0.5',
            "sharing_ratio is 0.5, not a list: write sharing_ratio = [0",
        ),
        ('kind = "lora"', 'kind = "lora"\nsharing_ratio = [0.5]', "sharing_ratio is [0.5]: write the lowest part"),
        ('kind = "lora"', 'kind = "lora"\nsharing_ratio = [1.0, 0.0]', "sharing_ratio is [1.0, 0.0]: write the lowest"),
        (
            'kind = "lora"',
            'kind = "lora"\nsharing_ratio = [0.0, 100.0]',
            "and 1 for what is served, such as [0.0, 1.0]",
        ),
        ('kind = "lora"', 'kind = "lora"\nsharing_ratio = [0.0, 0.5]', "sharing_ratio is [0.0, 0.5]: write the lowest"),
        (
            'kind = "lora"',
            'kind = "lora"\nsharing_ratio = [nan, 1.0]',
            "sharing_ratio is nan: write a number with an end",
        ),
        ('kind = "lora"', 'kind = "lora"\nsharing_ratio = ["0", "1"]', "sharing_ratio is '0': it must be a number"),
        (
            'kind = "lora"',
            'kind = "lora"\nobjective = "full-ft"\nsharing_ratio = [0.0, 1.0]',
            'sharing_ratio stands beside objective "full-ft", which has none',
        ),
        ("rank = 8", "rank = 8\n[distillation]", "[distillation] stands without start"),
        ("rank = 8", "rank = 8\n[distillation]\nstates = -1.0", "states is -1.0: it must be 0 or more"),
        ("rank = 8", "rank = 8\n[distillation]\nlabels = nan", "labels is nan: write a number with an end"),
        ("rank = 8", "rank = 8\n[distillation]\nstates = 0\nanswers = 0", "so nothing is learned from the adapter"),
    ],
)
def test_a_mistake_is_one_sentence(training_file: Path, old: str, new: str, said: str) -> None:
    assert old in FILE
    training_file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_training(training_file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "lora"', 'kind = "full"', 'which a module with full weights does not hold; write kind = "lora"'),
        ("rank = 8", 'targets = ["q_proj", "v_proj"]', "targets has 'v_proj', which has no effect"),
        ("rank = 8", 'targets = ["q_proj", "v_proj"]', 'write targets = ["q_proj"], or leave targets out'),
        ("rank = 8", 'targets = ["k_proj"]', "all the base's: leave targets out"),
        ("rank = 8", "rank = 8\n[evaluation]\nsharing_ratio = 0.5", "sharing_ratio is 0.5 and objective"),
    ],
)
def test_what_means_nothing_where_all_kv_is_the_bases_is_refused(
    training_file: Path, old: str, new: str, said: str
) -> None:
    text = FILE.replace("[lora]\nrank = 8\n", "") if "full" in new else FILE
    training_file.write_text(text.replace(old, new, 1).replace("[base]", 'objective = "icarus"\n\n[base]'))
    with pytest.raises(ConfigError) as caught:
        load_training(training_file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", ["icarus", "full-ft"])
def test_only_a_module_over_shared_kv_learns_from_the_adapter_as_it_was(training_file: Path, objective: str) -> None:
    start = training_file.parent / "start"
    start.mkdir()
    (start / "adapter_config.json").touch()
    text = FILE.replace("[lora]\nrank = 8\n", "[distillation]\n")
    training_file.write_text(text.replace("[base]", f'start = "start"\nobjective = "{objective}"\n\n[base]'))
    with pytest.raises(ConfigError, match=rf'\[distillation\] stands beside objective "{objective}": remove the table'):
        load_training(training_file)


@pytest.mark.parametrize(("objective", "makes_kv"), [("icarus", False), ("cache-conditioned", True)])
def test_without_targets_an_adapter_is_on_all_that_the_objective_has_a_use_for(
    training_file: Path, objective: str, makes_kv: bool
) -> None:
    training_file.write_text(FILE.replace("[base]", f'objective = "{objective}"\n\n[base]'))
    targets = load_training(training_file).targets
    assert {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} <= set(targets)
    assert ({"k_proj", "v_proj"} <= set(targets), len(targets)) == (makes_kv, 7 if makes_kv else 5)


def test_a_missing_file_names_the_nearest(training_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no training file .*: did you mean .*train\.toml"):
        load_training(training_file.with_name("trian.toml"))


def test_a_mark_before_the_text_is_no_part_of_it_and_other_files_are_not_suggested(training_file: Path) -> None:
    plain = load_training(training_file)
    training_file.write_bytes(b"\xef\xbb\xbf" + training_file.read_bytes())
    assert load_training(training_file) == plain
    (training_file.parent / "trian.toml").write_text("[prefill]\n")
    with pytest.raises(ConfigError, match=r"did you mean .*/train\.toml"):
        load_training(training_file.with_name("triann.toml"))


def _shipped(pattern: str) -> list[Training]:
    # Beside them stands one for `prefillshare quantize`.
    files = [file for file in sorted(RECIPES.glob(pattern)) if "optimizer" in tomllib.loads(file.read_text())]
    return [load_training(file) for file in files]


def _place(base: BaseModel | PrefillModule) -> tuple[object, ...]:
    return base.hub, base.revision, base.path and (MODELS / base.path).resolve()


def test_what_a_recipe_makes_is_what_the_deployment_files_load() -> None:
    recipes = {one.output.resolve(): one for one in _shipped("*.toml")}
    loaded = set()
    for file in sorted(MODELS.glob("*.toml")):
        # Not `load_deployment`: what the recipes make is not there.
        deployment = build(Deployment, tomllib.loads(file.read_text()), file.name, frozenset({"source"}))
        for module in deployment.decode:
            where = f"{module.path} in {file.name}"
            path = (MODELS / module.path).resolve()
            recipe = recipes.get(path)
            if recipe is None:
                # Weights of the repository, or the user's own in a file of full weights.
                assert (path / "prefillshare.json").is_file() or module.kind == "full", where
                continue
            loaded.add(path)
            assert recipe.kind == ("lora" if module.merge else module.kind), where
            assert _place(recipe.base) == _place(deployment.prefill), where
            assert recipe.objective == "cache-conditioned" or module.accept_naive, where
    assert {output for output, one in recipes.items() if one.kind == "lora"} <= loaded


def test_each_of_the_papers_runs_has_a_twin_that_trains_an_adapter() -> None:
    full = _shipped("*-[mtc]???.toml")
    assert len(full) == 12
    for one in full:
        twin = load_training(RECIPES / f"{one.name}-lora.toml")
        assert (twin.base, twin.data, twin.batch, twin.seed) == (one.base, one.data, one.batch, one.seed)


def test_recipes_are_the_papers_twelve_runs() -> None:
    trainings = _shipped("*-[mtc]???.toml")
    assert len(trainings) == 12
    assert len({(one.base.hub, one.data.source) for one in trainings}) == 12
    assert len({one.output for one in trainings}) == 12
    for one in trainings:
        assert (one.kind, one.objective, one.run.dtype) == ("full", "cache-conditioned", "bf16")
        assert (one.batch.size, one.batch.accumulation, one.batch.max_tokens) == (1, 16, 1024)
        assert one.optimizer.epochs == 1.0
        assert one.optimizer.learning_rate in (1e-5, 2e-5)
        assert one.name.endswith(f"-{one.output.name}")


def test_the_tiny_recipes_rows_are_those_of_its_generator() -> None:
    rows = [json.loads(line) for line in (RECIPES / "tiny-calls.jsonl").read_text().splitlines()]
    assert rows == list(call_rows(0, NUM_ROWS))

"""What would run on machines with GPUs, planned without one: devices, types, kernels and memory of every process."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from prefillshare import accelerators
from prefillshare.accelerators import VISIBLE_VARIABLE, Gpu, assumed_gpus
from prefillshare.bench.systems.base import with_full_weights
from prefillshare.bench.systems.vanilla_pd import plan_pairs
from prefillshare.config import load_deployment
from prefillshare.config.schema import Deployment
from prefillshare.config.tables import build
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.serving.launch import plan, plan_memory, plan_warnings
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan import arguments
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run.process import start_engine
from prefillshare.serving.run.readiness import start_fork_server
from tests.support.engines import MODELS_DIR, TINY_AGENTS

TINY_PD = MODELS_DIR / "tiny-agents-pd.toml"


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE_VARIABLE, raising=False)


def _resolved(file: Path, gpus: str, workers: int | None = None, **engine: object) -> ResolvedDeployment:
    config = load_deployment(file)
    config = replace(config, engine=replace(config.engine, **engine))  # type: ignore[arg-type]
    if workers is not None:
        config = replace(config, prefill=replace(config.prefill, workers=workers))
    return resolve(config, assumed_gpus(gpus))


def _value(command: ProcessCommand, flag: str) -> str | None:
    return dict(pairwise(command.argv)).get(flag)


def _values(commands: Mapping[str, ProcessCommand], flag: str) -> list[str | None]:
    return [_value(command, flag) for command in commands.values()]


@pytest.mark.parametrize("file", [TINY_AGENTS, TINY_PD, MODELS_DIR / "tiny-naive.toml"])
def test_the_shipped_files_name_kernels_that_every_gpu_has(file: Path) -> None:
    for command in plan(_resolved(file, "1x24GB"), LaunchOptions()).values():
        assert _value(command, "--dtype") == "bfloat16"
        assert _value(command, "--attention-backend") == "triton"
        assert _value(command, "--lora-backend") in ("csgmv", None)
        assert _value(command, "--device") is None
        assert CUDA_HIDDEN not in command.environment.items()
        assert not command.can_be_forked


CUDA_HIDDEN = (VISIBLE_VARIABLE, "")


@pytest.mark.parametrize("file", [TINY_AGENTS, TINY_PD])
def test_on_a_cpu_the_same_files_are_exact(file: Path) -> None:
    for command in plan(resolve(load_deployment(file), ()), LaunchOptions()).values():
        assert _value(command, "--dtype") == "float32"
        assert CUDA_HIDDEN in command.environment.items()
        assert command.can_be_forked


@pytest.mark.parametrize("file", sorted(MODELS_DIR.glob("*.toml")), ids=lambda file: file.stem)
def test_no_shipped_file_asks_for_what_a_gpu_cannot_do(file: Path) -> None:
    # Not `load_deployment`: the modules of some have to be trained first.
    engine = build(Deployment, tomllib.loads(file.read_text()), file.name, frozenset({"source"})).engine
    assert engine.dtype != "float32"
    assert engine.device == "auto"


@pytest.mark.parametrize("file", [TINY_AGENTS, TINY_PD])
def test_float32_on_a_gpu_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = _resolved(file, "8x80GB", dtype="float32")
    with pytest.raises(ConfigError, match="no float32 kernel for RMSNorm"):
        plan(resolved, LaunchOptions())
    monkeypatch.setattr(arguments, "PLUGINS", f"{arguments.PLUGINS},gpu_float32")
    assert set(_values(plan(resolved, LaunchOptions()), "--dtype")) == {"float32"}


@pytest.mark.parametrize("extra", [("--max-lora-chunk-size", "128"), ("--max-lora-chunk-size=128",)])
def test_float32_with_large_lora_chunks_is_refused(extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "PLUGINS", f"{arguments.PLUGINS},gpu_float32")
    resolved = _resolved(TINY_AGENTS, "1x80GB", dtype="float32", extra_args=extra)
    with pytest.raises(ConfigError, match='lora_backend = "triton"'):
        plan(resolved, LaunchOptions())
    triton = _resolved(TINY_AGENTS, "1x80GB", dtype="float32", lora_backend="triton", extra_args=extra)
    assert plan(triton, LaunchOptions())


def test_five_workers_of_two_gpus_each_on_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = plan(_resolved(TINY_PD, "8x80GB", workers=2, tensor_parallel_size=2), LaunchOptions())
    assert _values(commands, "--base-gpu-id") == ["0", "2", "4", "6", "6"]
    assert _values(commands, "--tp-size") == ["2"] * 5
    shared = [command.environment.get("SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK") for command in commands.values()]
    assert shared == [None, None, None, "0", "0"]


def test_workers_of_one_gpu_get_a_fixed_part_of_its_memory() -> None:
    commands = plan(_resolved(TINY_PD, "1x16GB", max_total_tokens=None), LaunchOptions())
    (tokens,) = set(_values(commands, "--max-total-tokens"))
    assert tokens is not None
    assert int(tokens) > 100_000
    assert set(_values(commands, "--mem-fraction-static")) == {"0.968"}
    alone = plan(_resolved(TINY_PD, "4x16GB", max_total_tokens=None), LaunchOptions())
    assert set(_values(alone, "--max-total-tokens") + _values(alone, "--mem-fraction-static")) == {None}


def test_the_plain_systems_of_the_bench_are_placed_alike() -> None:
    config = with_full_weights(load_deployment(TINY_AGENTS))
    config = replace(config, engine=replace(config.engine, max_total_tokens=4096))
    pairs = plan_pairs(resolve(config, assumed_gpus("2x16GB")))
    workers = [worker for pair in pairs.values() for worker in pair]
    assert [_value(worker.command, "--base-gpu-id") for worker in workers] == ["0", "0", "0", "1", "1", "1"]
    assert {_value(worker.command, "--max-total-tokens") for worker in workers} == {"4096"}
    assert {_value(worker.command, "--mem-fraction-static") for worker in workers} == {"0.968"}


@pytest.mark.parametrize(
    ("file", "page", "said"), [(TINY_PD, None, "16"), (TINY_PD, 1, "1"), (TINY_PD, 64, "64"), (TINY_AGENTS, None, "1")]
)
def test_pages_where_kv_goes_from_gpu_to_gpu(file: Path, page: int | None, said: str) -> None:
    assert set(_values(plan(_resolved(file, "4x24GB", page_size=page), LaunchOptions()), "--page-size")) == {said}


@pytest.mark.parametrize(
    ("page", "tokens", "said"),
    [
        (None, None, ["set max_total_tokens = 12800000 or less"]),
        (1, None, ["set page_size = 16, or set max_total_tokens = 12800000 or less"]),
        (None, 65536, []),
    ],
)
def test_many_descriptors_of_nixl_are_warned_of(page: int | None, tokens: int | None, said: list[str]) -> None:
    warnings = plan_warnings(_resolved(TINY_PD, "4x80GB", page_size=page, max_total_tokens=tokens))
    assert [text.partition("hand-off slow: ")[2].removesuffix(" under [engine]") for text in warnings] == said


def test_the_table_names_gpus_as_cuda_and_as_the_launcher_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_VARIABLE, "6,7")
    budgets = plan_memory(_resolved(TINY_PD, "8x80GB"))
    assert [budget.gpus for budget in budgets] == [("0 (6)",), ("0 (6)",), ("1 (7)",), ("1 (7)",)]
    assert {budget.num_sharing for budget in budgets} == {2}


@pytest.mark.parametrize(
    ("visible", "labels"),
    [
        (None, [None] * 4),
        ("2", ["2"]),
        ("3,1", ["3", "1"]),
        ("0,7,1", ["0"]),  # CUDA stops at the first that does not exist
        ("GPU-aaaa,GPU-bbbb", ["GPU-aaaa", "GPU-bbbb"]),
        ("MIG-aaaa,MIG-bbbb", ["MIG-aaaa"]),  # and gives a process one instance
        (" 0 , 1 ", ["0", "1"]),
    ],
)
def test_assumed_gpus_are_those_that_the_launcher_may_use(
    visible: str | None, labels: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE_VARIABLE, visible)
    assert [gpu.label for gpu in assumed_gpus("4x80GB")] == labels


@pytest.mark.parametrize("visible", ["", "-1", "9", "NoDevFiles"])
def test_hidden_gpus_cannot_be_planned_for(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_VARIABLE, visible)
    with pytest.raises(ConfigError, match="hides all 4 assumed GPUs: unset it"):
        assumed_gpus("4x80GB")


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("8x80GB", [80] * 8),
        ("80GB", [80]),
        ("2X24gib, 1 x 80 GB", [24, 24, 80]),
        ("1*16384MB", [16]),
        ("1x0.5TB", [512]),
        ("1x22.5g", [22.5]),
    ],
)
def test_assumed_gpus_may_be_written_in_many_ways(text: str, gib: list[float]) -> None:
    assert [gpu.memory_bytes / 2**30 for gpu in assumed_gpus(text)] == gib


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "x80GB", "0x80GB", "8x0GB", "-1x80GB", "8x80", "8xH100", "8x80GB,", "1e9x80GB", "9" * 400]
)
def test_what_describes_no_gpu_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 8x80GB"):
        assumed_gpus(text)


def test_more_gpus_than_a_machine_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="means 99999 GPUs"):
        assumed_gpus("99999x80GB")


def test_several_mig_instances_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_VARIABLE, "MIG-aaaa,MIG-bbbb")
    assert any("only the first is used" in text for text in plan_warnings(_resolved(TINY_PD, "1x80GB")))


def test_a_checkpoint_of_another_type_is_served_in_the_prefill_modules(tmp_path: Path) -> None:
    """Each worker would otherwise take its own checkpoint's, and refuse the other's KV at the first call."""
    commands = plan(_resolved(TINY_PD, "4x24GB"), LaunchOptions())
    assert set(_values(commands, "--dtype")) == {"bfloat16"}


def test_an_engine_on_a_gpu_is_a_program_of_its_own_whoever_offers_a_fork(tmp_path: Path) -> None:
    class Offered:
        def start(self, *arguments: object) -> None:
            raise AssertionError("forked")

    command = ProcessCommand(argv=("true", "--dtype", "bfloat16"), environment={}, api_key=None)
    engine = start_engine(command, tmp_path / "engine.log", Offered())  # type: ignore[arg-type]
    assert engine.main.wait(timeout=120) == 0
    engine.kill()
    assert start_fork_server(command, tmp_path / "forks.log", 1.0) is None


def test_the_device_may_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        plan(resolve(_on("cuda"), ()), LaunchOptions())
    assert _value(plan(resolve(_on("cpu"), assumed_gpus("1x24GB")), LaunchOptions())["engine"], "--device") == "cpu"


def _on(device: str) -> Deployment:
    config = load_deployment(TINY_AGENTS)
    return replace(config, engine=replace(config.engine, device=device))  # type: ignore[arg-type]


def test_devices_of_the_driver_carry_the_launchers_names(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Gpu(name="a", memory_bytes=1), Gpu(name="b", memory_bytes=2)]
    assert [gpu.label for gpu in accelerators._labelled(cards, ("4", "5"))] == ["4", "5"]
    assert [gpu.label for gpu in accelerators._labelled(cards, ())] == [None, None]


@pytest.mark.parametrize(("size", "fits"), [(1, True), (2, True), (3, False), (4, True), (8, False)])
def test_heads_must_divide_among_gpus(size: int, fits: bool) -> None:
    resolved = _resolved(TINY_AGENTS, "8x24GB", tensor_parallel_size=size)
    if fits:
        assert plan(resolved, LaunchOptions())
        return
    with pytest.raises(ConfigError, match=r"4 heads and 2 KV heads.* set one of 1, 2, 4 under"):
        plan(resolved, LaunchOptions())


def test_what_changes_sizes_is_left_to_sglang_to_judge() -> None:
    small = "1x1GB"
    with pytest.raises(ConfigError, match="needs"):
        plan(_resolved(TINY_AGENTS, small), LaunchOptions())
    assert plan(_resolved(TINY_AGENTS, small, extra_args=("--kv-cache-dtype", "fp8_e4m3")), LaunchOptions())

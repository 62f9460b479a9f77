"""What each system gets: its part of the memory budget, and the commands of plain SGLang."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from prefillshare.bench.families.factory import make_family
from prefillshare.bench.families.random import BENCH_01B, QWEN3_1_7B, QWEN3_8B, RandomShape, random_family
from prefillshare.bench.presets import choose_preset
from prefillshare.bench.systems.base import Setup, with_full_weights
from prefillshare.bench.systems.endpoint import parse_endpoint
from prefillshare.bench.systems.factory import SYSTEMS, make_systems
from prefillshare.bench.systems.shared import Shared, SharedLazy, SharedOpen, SharedWait, make_disaggregated
from prefillshare.bench.systems.vanilla_pd import plan_pairs
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.config.schema import Deployment, Engine
from prefillshare.contract import ADMISSION_VARIABLE, EAGER_VARIABLE
from prefillshare.errors import BenchError
from prefillshare.modules.deployment import resolve
from prefillshare.modules.random_weights import num_parameters, qwen3_config
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.arguments import alone_command
from prefillshare.serving.plan.place import Place
from prefillshare.serving.plan.placement import GpuPlace
from prefillshare.serving.plan.processes import plan_engine
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.plain import plain_command
from tests.support.engines import MODELS_DIR
from tests.support.random_models import make_family as make_random_family


def _deployment(num_modules: int = 2) -> Deployment:
    return make_family("tiny").deployment(num_modules, lambda text: None)


def _setup(kv_tokens: int | None, longest_call: int = 100) -> Setup:
    return Setup(deployment=_deployment(), kv_tokens=kv_tokens, log_dir=Path("logs"), longest_call=longest_call)


def _value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_budget_is_one_for_the_whole_system() -> None:
    for num_engines in (1, 2, 3, 8):
        assert _setup(8192).for_engines(num_engines).engine.max_total_tokens == 8192 // num_engines
    assert _setup(None).for_engines(1) == _deployment()


def test_a_budget_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(BenchError, match=r"leaves 100 to each of 4 engines and the longest call has 100: .* than 404"):
        _setup(400).for_engines(4)
    with pytest.raises(BenchError, match="give --kv-tokens"):
        _setup(None).for_engines(2)


def test_the_lazy_system_computes_nothing_ahead_and_is_else_the_same() -> None:
    deployments = [system().choose(_deployment()) for system in (Shared, SharedLazy)]
    engines = [plan_engine(resolve(deployment), LaunchOptions(port=1)).command for deployment in deployments]
    assert [EAGER_VARIABLE in engine.environment for engine in engines] == [True, False]
    flags = [[word for word in engine.argv if not word.isdigit()] for engine in engines]
    assert flags[0] == flags[1]


def test_in_the_open_system_nobody_waits_for_memory() -> None:
    deployments = [system().choose(_deployment()) for system in (Shared, SharedOpen)]
    engines = [plan_engine(resolve(deployment), LaunchOptions(port=1)).command for deployment in deployments]
    assert [ADMISSION_VARIABLE in engine.environment for engine in engines] == [True, False]


def test_beside_a_store_only_the_waiting_system_lets_sessions_wait() -> None:
    setup = replace(_setup(8192), store_memory="256 MiB")
    deployments = [system().choose(setup.with_store(_deployment())) for system in (Shared, SharedWait)]
    assert [deployment.memory_wait_s > 0 for deployment in deployments] == [False, True]


def test_a_plain_pair_is_sglang_alone_with_one_modules_weights() -> None:
    deployment = resolve(with_full_weights(_setup(8192).for_engines(4)))
    pairs = plan_pairs(deployment)
    paths = {module.spec.name: str(module.path) for module in deployment.modules}
    ports = []
    for name, (prefill, decode) in pairs.items():
        for worker, role in ((prefill, "prefill"), (decode, "decode")):
            argv = worker.command.argv
            assert _value(argv, "--model-path") == paths[name]
            assert _value(argv, "--disaggregation-mode") == role
            assert _value(argv, "--max-total-tokens") == "2048"
            assert "--radix-cache-backend" not in argv
            assert "--enable-lora" not in argv
            assert worker.command.environment["SGLANG_PLUGINS"] == "prefillshare_cpu"
            ports += [worker.place.port, worker.place.nccl_port]
        assert prefill.place.bootstrap_port is not None
        ports.append(prefill.place.bootstrap_port)
    assert len(set(ports)) == len(ports)


def test_a_shared_pool_has_the_engines_of_the_plain_pairs() -> None:
    deployment = make_disaggregated(_setup(8192))
    assert (deployment.topology, deployment.prefill.workers) == ("disaggregated", 2)
    assert [(module.kind, module.replicas) for module in deployment.decode] == [("full", 1)] * 2
    assert deployment.engine.max_total_tokens == 2048


def test_a_plain_server_is_sglang_alone_with_one_modules_weights() -> None:
    deployment = resolve(with_full_weights(_setup(8192).for_engines(2)))
    module = deployment.modules[1]
    worker = Worker(name="agent-1", role="engine", model=module.spec.name, checkpoint=module.path)
    place = Place(host="127.0.0.1", port=1, nccl_port=2, gpu=GpuPlace(gpus=(3,)))
    ours = alone_command(deployment, worker, place)
    plain = plain_command(ours)
    assert _value(plain.argv, "--model-path") == str(module.path)
    assert _value(plain.argv, "--served-model-name") == "agent-1"
    assert _value(plain.argv, "--max-total-tokens") == "4096"
    assert _value(plain.argv, "--base-gpu-id") == "3"
    assert not {"--radix-cache-backend", "--enable-lora", "--disaggregation-mode"} & set(plain.argv)
    assert set(ours.argv) - set(plain.argv) == {"--radix-cache-backend", "prefillshare"}
    assert plain.environment == {**ours.environment, "SGLANG_PLUGINS": "prefillshare_cpu"}


def test_the_tiny_family_has_any_number_of_modules() -> None:
    deployment = _deployment(7)
    assert [module.name for module in deployment.decode] == [f"agent-{number}" for number in range(7)]
    assert len({module.path for module in deployment.decode}) == 3
    assert len(resolve(deployment).modules) == 7


@pytest.mark.parametrize(("shape", "billions"), [(BENCH_01B, 0.1), (QWEN3_1_7B, 1.7), (QWEN3_8B, 8.2)])
def test_the_random_families_have_the_size_of_their_names(shape: RandomShape, billions: float) -> None:
    assert round(num_parameters(shape.config) / 1e9, 1) == billions


def test_an_icarus_family_has_the_same_base_and_changes_no_keys_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = qwen3_config(
        vocab_size=1320, layers=1, hidden=32, intermediate=32, heads=2, kv_heads=1, head_dim=16, max_positions=64
    )
    shape = RandomShape(name="micro", config=config, engine=Engine())
    all_base = replace(shape, name="micro-icarus", objective="icarus")
    ordinary, icarus = (random_family(each).deployment(1, lambda text: None) for each in (shape, all_base))
    assert icarus.prefill.path == ordinary.prefill.path
    (module,) = resolve(icarus).modules
    assert module.manifest is not None
    assert module.manifest.kv_rule == "all-base"
    changed = {
        name.split(".")[-3]: bool(tensor.any())
        for name, tensor in load_file(module.path / "adapter_model.safetensors").items()
        if "lora_B" in name
    }
    assert {name for name, is_changed in changed.items() if not is_changed} == {"k_proj", "v_proj"}
    assert len(changed) == 7


@pytest.mark.parametrize("name", ["cpu", "gpu-8b"])
def test_a_presets_sessions_fit_its_models_window_and_its_budget(name: str) -> None:
    preset = choose_preset(name)
    shape = next(shape for shape in (BENCH_01B, QWEN3_8B) if shape.name == preset.family)
    window, sizes = shape.engine.context_length or 0, replace(preset.shape, num_sessions=1)
    assert preset.shape.context_length <= window <= shape.config["max_position_embeddings"]
    for num_modules in (1, 2, 4, 8, 16):
        modules = tuple(f"agent-{number}" for number in range(num_modules))
        for kind in ("react", "reflexion", "unshared"):
            assert make_workload(kind, sizes, modules).longest_prompt() < (preset.kv_tokens or window)


def test_a_deployment_file_is_a_family(tmp_path: Path) -> None:
    family = make_family(str(make_random_family(tmp_path)))
    assert (family.name, family.max_modules) == ("random-agents", 3)
    assert [module.name for module in family.deployment(2, lambda text: None).decode] == ["math", "tool"]
    with pytest.raises(BenchError, match="topology"):
        make_family(str(MODELS_DIR / "tiny-agents-pd.toml"))
    with pytest.raises(BenchError, match="there is no family 'huge'"):
        make_family("huge")


def test_systems_come_by_name_then_the_endpoints() -> None:
    made = make_systems(SYSTEMS, ["there=http://127.0.0.1:1"])
    assert [system.name for system in made] == [*SYSTEMS, "there"]
    assert [system.shares for system in made] == [*[True] * 5, *[False] * 3, None]


def test_an_endpoints_models_stand_for_the_modules() -> None:
    endpoint = parse_endpoint("there=http://127.0.0.1:1/v1/#x,y", "key")
    setup = Setup(deployment=_deployment(3), kv_tokens=None, log_dir=Path("logs"))
    with endpoint.start(setup) as running:
        assert [target.model for target in running.targets.values()] == ["x", "y", "x"]
        assert {target.url for target in running.targets.values()} == {"http://127.0.0.1:1"}
        assert {target.api_key for target in running.targets.values()} == {"key"}
        assert list(running.targets) == ["agent-0", "agent-1", "agent-2"]

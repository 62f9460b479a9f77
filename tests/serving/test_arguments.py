"""One place turns a deployment into the engine's command line; these are its rules."""

from pathlib import Path

import httpx
import pytest

from prefillshare.accelerators import Gpu
from prefillshare.config import load_deployment, schema
from prefillshare.errors import ConfigError
from prefillshare.modules import deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.plan import cpu
from prefillshare.serving.plan.arguments import worker_command
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.place import Place
from prefillshare.serving.plan.workers import engine_of
from tests.support.random_models import make_adapter, make_base, write_deployment

GPU = Gpu(name="a GPU", memory_bytes=80 << 30)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = make_base(tmp_path / "base")
    make_adapter(tmp_path / "math", base, "math", seed=1, rank=8)
    make_adapter(tmp_path / "tool", base, "tool", seed=2, rank=16, target_modules=("q_proj", "v_proj"))
    return tmp_path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "gpus", lambda: ())


def _command(directory: Path, engine: str = "", **changes: object) -> ProcessCommand:
    file = write_deployment(directory / "deployment.toml", ("math", "tool"), engine)
    if "dtype" in engine:
        file.write_text(file.read_text().replace('dtype = "float32"\n', ""))
    return _engine_command(file, **changes)


def _engine_command(file: Path, **changes: object) -> ProcessCommand:
    resolved = resolve(load_deployment(file))
    place = Place(host="127.0.0.1", port=30000, nccl_port=29999)
    return worker_command(resolved, engine_of(resolved), place, **changes)  # type: ignore[arg-type]


def _value(command: ProcessCommand, flag: str) -> str:
    return command.argv[command.argv.index(flag) + 1]


@pytest.mark.usefixtures("no_gpu")
def test_the_shared_cache_and_a_slot_for_the_prefill_module_are_always_asked_for(directory: Path) -> None:
    command = _command(directory)
    assert _value(command, "--radix-cache-backend") == "prefillshare"
    assert _value(command, "--max-loras-per-batch") == "3"
    assert _value(command, "--max-lora-rank") == "16"
    assert f"math={directory / 'math'}" in command.argv
    file = directory / "deployment.toml"
    file.write_text(file.read_text() + '\n[modules]\nmax_rank = 64\ntargets = ["down_proj"]\nslots = 8\n')
    roomy = _engine_command(file)
    assert _value(roomy, "--max-loras-per-batch") == "9"
    assert _value(roomy, "--max-lora-rank") == "64"
    assert "down_proj" in roomy.argv
    assert _value(command, "--served-model-name") == "random-base"
    assert {"--enable-lora", "--enable-cache-report", "--sleep-on-idle", "--enable-metrics"} <= set(command.argv)
    assert "--enable-trace" not in command.argv
    start = command.argv.index("--lora-target-modules")
    assert command.argv[start + 1 : start + 8] == (
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    )
    assert set(command.environment["SGLANG_PLUGINS"].split(",")) == {"prefillshare", "prefillshare_cpu"}


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_everything_is_plain_torch_with_limits_for_a_laptop(directory: Path) -> None:
    command = _command(directory)
    assert _value(command, "--lora-backend") == "torch_native"
    assert _value(command, "--attention-backend") == "torch_native"
    assert _value(command, "--device") == "cpu"
    assert _value(command, "--dtype") == "float32"
    assert command.can_be_forked
    assert 2048 <= int(_value(command, "--max-total-tokens")) <= 65536
    assert command.environment["OMP_NUM_THREADS"].isdigit()
    assert command.environment["THP_MEM_ALLOC_ENABLE"] == "1"


def test_with_a_gpu_the_kernels_are_named_and_sizes_left_to_the_file_and_to_sglang(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "gpus", lambda: (GPU, GPU))
    command = _command(directory, 'dtype = "bfloat16"\ntensor_parallel_size = 2\nmem_fraction_static = 0.8\n')
    assert _value(command, "--lora-backend") == "csgmv"
    assert _value(command, "--tp-size") == "2"
    assert _value(command, "--dtype") == "bfloat16"
    assert _value(command, "--attention-backend") == "triton"
    assert not {"--device", "--max-total-tokens"} & set(command.argv)
    assert not command.can_be_forked
    assert "CUDA_VISIBLE_DEVICES" not in command.environment


def test_the_cpu_can_be_chosen_on_a_machine_with_a_gpu(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "gpus", lambda: (GPU,))
    command = _command(directory, 'device = "cpu"\n')
    assert command.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert _value(command, "--lora-backend") == "torch_native"


def test_idle_connections_outlive_those_of_common_clients_unless_somebody_says_otherwise(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SGLANG_TIMEOUT_KEEP_ALIVE", raising=False)
    kept_s = float(_command(directory).environment["SGLANG_TIMEOUT_KEEP_ALIVE"])
    assert kept_s > 10 * httpx.Limits().keepalive_expiry
    monkeypatch.setenv("SGLANG_TIMEOUT_KEEP_ALIVE", "7")
    assert _command(directory).environment["SGLANG_TIMEOUT_KEEP_ALIVE"] == "7"


@pytest.mark.usefixtures("no_gpu")
def test_settings_of_the_file_arrive_and_extra_arguments_come_last(directory: Path) -> None:
    engine = (
        "page_size = 16\nchunked_prefill_size = 64\nmax_total_tokens = 4096\noverlap_schedule = false\nthreads = 3\n"
        'extra_args = ["--decode-log-interval", "7"]\n'
    )
    command = _command(directory, engine, extra_args=("--page-size", "1"))
    assert _value(command, "--page-size") == "16"
    assert command.argv[-2:] == ("--page-size", "1")
    assert _value(command, "--chunked-prefill-size") == "64"
    assert _value(command, "--max-total-tokens") == "4096"
    assert _value(command, "--decode-log-interval") == "7"
    assert "--disable-overlap-schedule" in command.argv
    assert command.environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ('device = "cuda"\n', 'set device = "auto"'),
        ("tensor_parallel_size = 2\n", "set tensor_parallel_size = 1"),
    ],
)
def test_a_device_that_is_not_there_is_said(directory: Path, engine: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _command(directory, engine)


@pytest.mark.usefixtures("no_gpu")
def test_the_api_key_is_not_on_the_command_line(directory: Path) -> None:
    command = _command(directory, api_key="very secret")
    assert not any("secret" in word for word in command.argv)
    assert "secret" not in command.as_shell()
    assert command.as_shell().endswith('--api-key "$PREFILLSHARE_API_KEY"')


@pytest.mark.usefixtures("no_gpu")
def test_every_flag_exists_in_the_pinned_sglang(directory: Path) -> None:
    from importlib.util import find_spec

    spec = find_spec("sglang")
    assert spec is not None
    assert spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "srt" / "server_args.py").read_text()
    engine = (
        "context_length = 512\nmax_running_requests = 4\nrandom_seed = 1\nreasoning_parser = 'qwen3'\n"
        "tool_call_parser = 'qwen25'\noverlap_schedule = false\n"
    )
    flags = [word for word in _command(directory, engine).argv if word.startswith("--")]
    missing = [flag for flag in flags if f"    {flag[2:].replace('-', '_')}: A[" not in source]
    assert not missing


@pytest.mark.usefixtures("no_gpu")
def test_a_receiver_of_traces_turns_sglangs_tracing_on(directory: Path) -> None:
    file = write_deployment(directory / "deployment.toml", ("math",))
    file.write_text('otlp_endpoint = "http://localhost:4317"\n' + file.read_text())
    command = _engine_command(file)
    assert "--enable-trace" in command.argv
    assert _value(command, "--otlp-traces-endpoint") == "http://localhost:4317"
    assert command.environment["SGLANG_TRACE_LEVEL"] == "2"  # no span per decode step


def test_schema_and_page_tell_the_sizes_that_a_cpu_gets() -> None:
    page = Path(__file__).parents[2] / "docs" / "deployment-file.md"
    for text in (Path(str(schema.__file__)).read_text(), page.read_text()):
        words = " ".join(text.split())
        assert f"({cpu.MAX_RUNNING_REQUESTS} on CPU" in words
        assert f"({cpu.CHUNKED_PREFILL_TOKENS} on CPU" in words
        assert f"at most {cpu.MAX_KV_BYTES >> 30} GiB and {cpu.MAX_KV_TOKENS} tokens" in words

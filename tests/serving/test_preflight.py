"""What `launch --dry-run` finds without starting anything: arguments, parsers, sizes, tables, ports."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.accelerators import assumed_gpus
from prefillshare.config import load_deployment
from prefillshare.contract import SHARED_MEMORY_VARIABLE
from prefillshare.errors import PrefillShareError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.serving.launch import plan, plan_warnings
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.transfer import describe_transfer
from prefillshare.serving.plan.variables import handoff_variables
from tests.support.random_models import make_family

COLOCATED, ACROSS = "colocated", "disaggregated"
EXTRA = [
    (["--no-such-flag"], "--no-such-flag, which SGLang does not know: `python -m sglang.launch_server --help`"),
    (["--decode-log-intervall", "7"], "did you mean '--decode-log-interval'"),
    (["--decode-log-inter", "7"], "write the whole name, --decode-log-interval"),
    (["--model-pat", "elsewhere"], "write the whole name, --model-path"),
    (["--radix-cache-b=lru"], "write the whole name, --radix-cache-backend"),
    (["--context-len", "64"], "write the whole name, --context-length"),
    (["--decode-log-interval", "seven"], "--decode-log-interval is 'seven': it must be a whole number"),
    (["--decode-log-interval"], "--decode-log-interval has no value"),
    (["--decode-log-interval", "7", "8"], "takes one value and has 2"),
    (["--decode-log-interval=7", "--decode-log-interval", "8"], "sets --decode-log-interval twice"),
    (["--schedule-policy", "fiffo"], "--schedule-policy is 'fiffo': did you mean 'fcfs'|--schedule-policy is 'fiffo'"),
    (["--disable-cuda-graph", "true"], "--disable-cuda-graph takes no value and has 'true'"),
    (["7", "--decode-log-interval"], "begins with '7'"),
    (["--nccl-port", "4"], "sets --nccl-port, which it must not"),
    (["--skip-server-warmup"], "sets --skip-server-warmup, which it must not"),
    (["--base-gpu-id", "3"], "choose the GPUs with CUDA_VISIBLE_DEVICES"),
    (["--gpu-id-step=2"], "choose the GPUs with CUDA_VISIBLE_DEVICES"),
    (["--disaggregation-mode", "prefill"], "write topology"),
    (["--config", "file.yaml"], "write what it holds"),
    (["--speculative-algorithm", "NGRAM"], "does not support speculative decoding"),
    (["--enable-hierarchical-cache"], "write a [store] table"),
    (["--tensor-parallel-size", "2"], "write tensor_parallel_size"),
]
ENGINE = [
    ('tool_call_parser = "quen25"', "tool_call_parser under [engine] is 'quen25': did you mean 'qwen25'?"),
    ('reasoning_parser = "qwen33"', "reasoning_parser under [engine] is 'qwen33': did you mean 'qwen3'?"),
    ('attention_backend = "tritonn"', "attention_backend under [engine] is 'tritonn': did you mean 'triton'?"),
    ("max_total_tokens = 20", "can serve nothing, set max_total_tokens = "),
    ("page_size = 64\nmax_total_tokens = 100", "in pages of 64"),
    ("page_size = 16\nchunked_prefill_size = 40", "set chunked_prefill_size = 32 under [engine]"),
    ("page_size = 64\nchunked_prefill_size = 40", "set chunked_prefill_size = 64 under [engine]"),
    ("context_length = 4", "too short for a question and an answer"),
    ('attention_backend = "triton"', "which needs a GPU, and this deployment would run on the CPU"),
    ("context_length = 5000", "context_length 5000 is more than the 4096 positions"),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(tmp_path_factory.mktemp("preflight"))


def _written(family: Path, topology: str, engine: str = "", more: str = "") -> Path:
    file = family.with_name("changed.toml")
    text = family.read_text().replace('topology = "colocated"', f'topology = "{topology}"')
    file.write_text(f"{text}{engine}\n{more}")
    return file


def _planned(family: Path, topology: str, engine: str = "", gpus: str | None = None) -> ResolvedDeployment:
    found = assumed_gpus(gpus) if gpus else ()
    config = load_deployment(_written(family, topology, engine))
    resolved = resolve(config, found)
    plan(resolved, LaunchOptions())
    return resolved


@pytest.mark.parametrize("topology", [COLOCATED, ACROSS])
@pytest.mark.parametrize(("extra", "said"), EXTRA, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_extra_args_that_sglang_or_we_would_not_take(family: Path, topology: str, extra: list[str], said: str) -> None:
    with pytest.raises(PrefillShareError) as caught:
        _planned(family, topology, f"extra_args = {extra}")
    assert any(part in str(caught.value) for part in said.split("|"))


@pytest.mark.parametrize("topology", [COLOCATED, ACROSS])
@pytest.mark.parametrize(
    "extra",
    [
        ["--decode-log-interval", "7"],
        ["--decode-log-interval=-1", "--log-level", "debug"],
        ["--cuda-graph-bs-decode", "1", "2", "4"],
        ["--sampling-backend", "pytorch"],
        ["--json-model-override-args", '{"a": 1}'],
        ["--disable-cuda-graph", "--watchdog-timeout", "1e3"],
    ],
)
def test_extra_args_that_sglang_takes_arrive(family: Path, topology: str, extra: list[str]) -> None:
    config = load_deployment(_written(family, topology, f"extra_args = {extra}"))
    for command in plan(resolve(config, ()), LaunchOptions()).values():
        assert command.argv[-len(extra) :] == tuple(extra)


@pytest.mark.parametrize("topology", [COLOCATED, ACROSS])
@pytest.mark.parametrize(("engine", "said"), ENGINE)
def test_settings_that_would_not_start(family: Path, topology: str, engine: str, said: str) -> None:
    with pytest.raises(PrefillShareError) as caught:
        _planned(family, topology, engine)
    assert said in str(caught.value)


def test_a_decode_worker_keeps_room_for_answers(family: Path) -> None:
    """SGLang would let every call wait for ever."""
    assert _planned(family, COLOCATED, "max_total_tokens = 500")
    with pytest.raises(PrefillShareError, match=r"keeps 512 free for answers.* max_total_tokens = 576 or more"):
        _planned(family, ACROSS, "max_total_tokens = 500")
    assert _planned(family, ACROSS, "max_total_tokens = 576")


def test_a_library_that_is_not_installed_is_named(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mooncake" else known(name))
    config = load_deployment(_written(family, ACROSS, more='[transfer]\nbackend = "mooncake"\n'))
    with pytest.raises(PrefillShareError, match="pip install mooncake-transfer-engine"):
        plan(resolve(config, ()), LaunchOptions())


@pytest.mark.parametrize(
    ("transfer", "gpus", "said"),
    [
        ("", None, "through shared memory"),
        ("shared_memory = false", None, "by nixl: shared_memory = false under [transfer]"),
        ("", "4x80GB", "by nixl, from GPU to GPU"),
        ('backend = "mooncake"', None, "by mooncake"),
    ],
)
def test_the_way_of_kv_is_told_and_what_workers_are_started_for(
    family: Path, transfer: str, gpus: str | None, said: str
) -> None:
    config = load_deployment(_written(family, ACROSS, more=f"[transfer]\n{transfer}\n"))
    resolved = resolve(config, assumed_gpus(gpus) if gpus else ())
    assert describe_transfer(resolved).endswith(said)
    is_shared = SHARED_MEMORY_VARIABLE in handoff_variables(resolved)
    assert is_shared == (transfer == "")


def test_pages_of_a_gpu_must_fit_its_chunks(family: Path) -> None:
    with pytest.raises(PrefillShareError, match="SGLang computes 2048 at once and a page has 48 tokens"):
        _planned(family, COLOCATED, "page_size = 48", gpus="1x24GB")
    assert _planned(family, COLOCATED, "page_size = 48").page_size == 48


def test_a_window_larger_than_the_cache_is_warned_of(family: Path) -> None:
    resolved = _planned(family, COLOCATED, "context_length = 4096\nmax_total_tokens = 1000")
    assert any("set context_length = 1000" in text for text in plan_warnings(resolved))
    assert not plan_warnings(_planned(family, COLOCATED, "context_length = 1000\nmax_total_tokens = 1000"))
    assert not plan_warnings(_planned(family, COLOCATED, "max_total_tokens = 1000"))
    (text,) = plan_warnings(_planned(family, ACROSS, "max_total_tokens = 1000"))
    assert "may have 4096 tokens" in text
    assert "512 of them kept for answers" in text
    assert "set context_length = 488" in text
    assert not plan_warnings(_planned(family, ACROSS, "context_length = 488\nmax_total_tokens = 1000"))
    own = "max_total_tokens = 1000\n[engine.prefill]\nmax_total_tokens = 480"
    (text,) = plan_warnings(_planned(family, ACROSS, own))
    assert "KV cache of prefill-0 holds 480, longer calls are refused, so set context_length = 480" in text


def test_more_than_the_memory_of_the_machine_is_warned_of(family: Path) -> None:
    resolved = _planned(family, COLOCATED, "max_total_tokens = 4000000000")
    assert any("of memory are free" in text for text in plan_warnings(resolved))


@pytest.mark.parametrize("table", ["[router]\n", '[router]\npolicy = "session"\n', "[transfer]\ntimeout_s = 3\n"])
def test_tables_of_the_other_topology_are_refused(family: Path, table: str) -> None:
    with pytest.raises(PrefillShareError, match=r"\] table, which topology = \"colocated\" has no use for"):
        load_deployment(_written(family, COLOCATED, more=table))
    assert load_deployment(_written(family, ACROSS, more=table))


def _dry_run(file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prefillshare", "launch", str(file), "--dry-run", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_dry_run_says_a_port_in_use_and_plans_other_machines_without_asking_this_one(family: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = _dry_run(family, "--port", port)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"port {port} on 127.0.0.1 is in use" in done.stderr
        text = _written(family, ACROSS).read_text().replace('dtype = "float32"\n', "")
        file = family.with_name("elsewhere.toml")
        file.write_text(text)
        elsewhere = _dry_run(file, "--port", port, "--assume-gpus", "2x24GB")
    assert elsewhere.returncode == 0, elsewhere.stderr
    table = [line.split() for line in elsewhere.stdout.splitlines() if line.startswith("# ") and "GPU " in line]
    assert [row[1] for row in table] == ["worker", "prefill-0", "decode-math-0", "decode-tool-0", "decode-code-0"]
    assert subprocess.run(["sh", "-n"], input=elsewhere.stdout, text=True, check=False).returncode == 0


def test_what_cannot_be_served_is_said_alone(family: Path) -> None:
    done = _dry_run(_written(family, ACROSS, "max_total_tokens = 30"), "--port", str(free_port()))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "can serve nothing" in done.stderr


def test_assumed_gpus_are_for_plans(family: Path) -> None:
    command = [sys.executable, "-m", "prefillshare", "launch", str(family), "--assume-gpus", "8x80GB"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "add --dry-run" in done.stderr

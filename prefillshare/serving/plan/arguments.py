"""The one place where a deployment becomes the engine's command line and environment.

Flags are those of `sglang serve` at 0.5.17 (sglang/srt/server_args.py).
"""

import itertools
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefillshare.accelerators import gpus
from prefillshare.contract import (
    BACKEND_NAME,
    DEPLOYMENT_VARIABLE,
    FINGERPRINT_VARIABLE,
    PLUGINS,
    WARNINGS_VARIABLE,
)
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
from prefillshare.serving.machine.environment import loopback_variables
from prefillshare.serving.machine.host import available_memory_bytes, default_threads
from prefillshare.serving.machine.toolkit import compiler_variables
from prefillshare.serving.options import DEFAULT_HOST
from prefillshare.serving.plan.engine_options import check_extra_args, check_own_values
from prefillshare.serving.plan.kernels import GPU_ATTENTION_BACKEND, GPU_LORA_BACKEND, check_kernels
from prefillshare.serving.plan.memory import kv_token_bytes
from prefillshare.serving.plan.placement import GpuPlace

ENGINE_PROGRAM = (sys.executable, "-m", "sglang.launch_server")
HEARTBEAT_S = 2.0
"""Pause between two looks of a decode worker at its prefill workers; 2 is the least that SGLang allows."""
HEARTBEAT_FAILURES = 2
"""Looks in vain after which a prefill worker counts as gone."""
_CHECKED_KEYS = ("attention_backend", "reasoning_parser", "tool_call_parser")
"""Keys of the deployment file with values that only SGLang knows; it has fields of the same names."""
CPU_MAX_RUNNING_REQUESTS = 32
CPU_CHUNKED_PREFILL_TOKENS = 512
CPU_MAX_KV_BYTES = 2 << 30
CPU_MAX_KV_TOKENS = 65536
CPU_MIN_KV_TOKENS = 2048


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """What to run."""

    argv: tuple[str, ...]
    """Program and arguments, without the API key, which everybody on the machine could read there."""
    environment: dict[str, str]
    """Variables to set on top of the caller's."""
    api_key: str | None
    """Key that clients must send; None for an open server."""

    def __post_init__(self) -> None:
        for word in self.argv[len(ENGINE_PROGRAM) :]:
            if not _is_text(word):
                raise ConfigError(f"{word!a} holds bytes that are no UTF-8, which SGLang cannot open: rename it")

    @property
    def engine_arguments(self) -> tuple[str, ...]:
        """The arguments without the program, as SGLang's parser takes them."""
        return self.argv[len(ENGINE_PROGRAM) :]

    @property
    def can_be_forked(self) -> bool:
        """Whether it may be forked from a process that imported SGLang: a CUDA context does not survive a fork."""
        return ("--device", "cpu") in itertools.pairwise(self.argv)

    def as_shell(self) -> str:
        """Return a line that does the same when pasted into a shell; the API key is left to its variable."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        words += [shlex.quote(word) for word in self.argv]
        words += ['--api-key "$PREFILLSHARE_API_KEY"'] if self.api_key else []
        return " ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """What one worker of a disaggregated deployment is, and where it listens."""

    module: ResolvedModule | None
    """The decode module that it holds; None for a prefill worker."""
    host: str
    """Address of its HTTP server."""
    port: int
    """Port of its HTTP server."""
    nccl_port: int
    """Port of torch's rendezvous."""
    bootstrap_port: int | None
    """Port at which decode workers find a prefill worker; None for a decode worker."""
    gpu: GpuPlace | None
    """Its GPUs; None on CPU."""
    kv_events: str | None = None
    """ZeroMQ address at which it publishes KV events; None when it does not."""


def engine_command(
    deployment: ResolvedDeployment,
    *,
    host: str,
    port: int,
    nccl_port: int,
    api_key: str | None = None,
    extra_args: Sequence[str] = (),
) -> EngineCommand:
    """Return the command that serves `deployment`; `extra_args` come last and win.

    Raises: ConfigError when the deployment asks for a device that this machine does not have.
    """
    on_cpu = runs_on_cpu(deployment)
    check_kernels(deployment, PLUGINS, extra_args)
    argv = _server_flags(deployment.prefill_path, deployment.config.prefill.name, host, port, nccl_port)
    argv += _lora_flags(deployment, deployment.modules, on_cpu)
    argv += _engine_flags(deployment, on_cpu)
    # SGLang computes prompts first; on a CPU, answers would stand still for seconds while others' prompts are computed.
    argv += ["--enable-mixed-chunk"] if on_cpu else []
    argv += [*_checked_extra_args(deployment, argv), *extra_args]
    environment = {**_environment(deployment, on_cpu, extra_args), **_warnings(deployment)}
    return EngineCommand(argv=tuple(argv), environment=environment, api_key=api_key)


def worker_command(
    deployment: ResolvedDeployment,
    place: WorkerPlace,
    *,
    api_key: str | None = None,
    extra_args: Sequence[str] = (),
) -> EngineCommand:
    """Return the command of one worker of a disaggregated deployment; `extra_args` come last and win.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    on_cpu, module = runs_on_cpu(deployment), place.module
    check_kernels(deployment, PLUGINS, extra_args)
    is_full = module is not None and module.adapter is None
    path = module.path if module and is_full else deployment.prefill_path
    name = module.spec.name if module and is_full else deployment.config.prefill.name
    argv = _server_flags(path, name, place.host, place.port, place.nccl_port)
    if module is not None and not is_full:
        argv += _lora_flags(deployment, (module,), on_cpu)
    argv += ["--disaggregation-mode", "prefill" if module is None else "decode"]
    argv += ["--disaggregation-transfer-backend", deployment.config.transfer.backend]
    if place.bootstrap_port is not None:
        argv += ["--disaggregation-bootstrap-port", str(place.bootstrap_port)]
    if module is not None:
        argv += ["--disaggregation-decode-enable-radix-cache"]
    if place.kv_events is not None:
        argv += ["--kv-events-config", json.dumps({"publisher": "zmq", "endpoint": place.kv_events})]
    flags = _engine_flags(deployment, on_cpu, place.gpu)
    # On CPU nothing overlaps, and the schedule makes repetition penalties a token late.
    argv += flags if not on_cpu or "--disable-overlap-schedule" in flags else [*flags, "--disable-overlap-schedule"]
    argv += [*_checked_extra_args(deployment, argv), *extra_args]
    environment = {
        **_environment(deployment, on_cpu, extra_args, place.gpu),
        **_hand_off_environment(deployment),
        **_warnings(deployment),
    }
    return EngineCommand(argv=tuple(argv), environment=environment, api_key=api_key)


def module_command(
    deployment: ResolvedDeployment, module: ResolvedModule, *, port: int, nccl_port: int, gpu: GpuPlace | None = None
) -> EngineCommand:
    """Return the command of a server that holds the full weights of one decode module and nothing else."""
    on_cpu = runs_on_cpu(deployment)
    check_kernels(deployment, PLUGINS)
    argv = _server_flags(module.path, module.spec.name, DEFAULT_HOST, port, nccl_port)
    argv += _engine_flags(deployment, on_cpu, gpu)
    argv += _checked_extra_args(deployment, argv)
    return EngineCommand(argv=tuple(argv), environment=_environment(deployment, on_cpu, (), gpu), api_key=None)


def _checked_extra_args(deployment: ResolvedDeployment, argv: Sequence[str]) -> tuple[str, ...]:
    """The extra_args of the deployment file, once they and the values in `argv` are known to be taken by SGLang."""
    engine = deployment.config.engine
    check_own_values(argv[len(ENGINE_PROGRAM) :], _CHECKED_KEYS)
    check_extra_args(engine.extra_args, argv[len(ENGINE_PROGRAM) :])
    return engine.extra_args


def _server_flags(path: Path, name: str, host: str, port: int, nccl_port: int) -> list[str]:
    argv = [*ENGINE_PROGRAM, "--model-path", str(path), "--served-model-name", name]
    argv += ["--host", host, "--port", str(port), "--nccl-port", str(nccl_port)]
    argv += ["--radix-cache-backend", BACKEND_NAME, "--enable-cache-report", "--sleep-on-idle"]
    argv += ["--enable-metrics"]
    # `launch` warms the engine itself, through a decode module; the stock warm-up only adds a second of waiting.
    return [*argv, "--skip-server-warmup"]


def _hand_off_environment(deployment: ResolvedDeployment) -> dict[str, str]:
    timeout = str(deployment.config.transfer.timeout_s)
    return {
        FINGERPRINT_VARIABLE: deployment.fingerprint,
        "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": timeout,
        "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": timeout,
        "SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": str(HEARTBEAT_S),
        "SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE": str(HEARTBEAT_FAILURES),
    }


def _warnings(deployment: ResolvedDeployment) -> dict[str, str]:
    """Variables that let the engine tell its clients which modules answer badly over shared KV."""
    warnings = {module.spec.name: module.warning for module in deployment.modules if module.warning}
    return {WARNINGS_VARIABLE: json.dumps(warnings)} if warnings else {}


def runs_on_cpu(deployment: ResolvedDeployment) -> bool:
    """Whether the deployment's engines run without an accelerator.

    Raises: ConfigError when it asks for GPUs that this machine does not have.
    """
    device, found = deployment.config.engine.device, len(deployment.gpus)
    wanted = deployment.config.engine.tensor_parallel_size
    if device == "cuda" and not found:
        raise ConfigError('device is "cuda" and this machine shows no CUDA GPU: set device = "auto" under [engine]')
    on_cpu = not found
    if wanted > max(1, found) or (on_cpu and wanted > 1):
        raise ConfigError(
            f"tensor_parallel_size is {wanted} and {0 if on_cpu else found} GPUs can be used: "
            f"set tensor_parallel_size = {1 if on_cpu else found} under [engine]"
        )
    return on_cpu


def _lora_flags(deployment: ResolvedDeployment, modules: Sequence[ResolvedModule], on_cpu: bool) -> list[str]:
    adapters = [module.adapter for module in modules if module.adapter is not None]
    targets = sorted({target for adapter in adapters for target in adapter.target_modules})
    backend = deployment.config.engine.lora_backend or ("torch_native" if on_cpu else GPU_LORA_BACKEND)
    return [
        "--enable-lora",
        "--lora-paths",
        *(f"{module.spec.name}={module.path}" for module in modules),
        # One slot more for the prefill module: with too few, requests wait for ever.
        "--max-loras-per-batch",
        str(len(adapters) + 1),
        "--max-lora-rank",
        str(max(adapter.rank for adapter in adapters)),
        "--lora-target-modules",
        *targets,
        "--lora-backend",
        backend,
    ]


def _engine_flags(deployment: ResolvedDeployment, on_cpu: bool, gpu: GpuPlace | None = None) -> list[str]:
    engine = deployment.config.engine
    values: dict[str, object] = {
        "--device": "cpu" if on_cpu else None,
        "--dtype": deployment.dtype,
        "--page-size": deployment.page_size,
        "--tp-size": engine.tensor_parallel_size if engine.tensor_parallel_size > 1 else None,
        "--context-length": engine.context_length,
        "--max-total-tokens": engine.max_total_tokens,
        "--mem-fraction-static": engine.mem_fraction_static,
        "--max-running-requests": engine.max_running_requests,
        "--chunked-prefill-size": engine.chunked_prefill_size,
        # SGLang's choice depends on the card, and on some it changes the page size.
        "--attention-backend": engine.attention_backend or (None if on_cpu else GPU_ATTENTION_BACKEND),
        "--random-seed": engine.random_seed,
        "--reasoning-parser": engine.reasoning_parser,
        "--tool-call-parser": engine.tool_call_parser,
    }
    if on_cpu:
        for flag, value in _cpu_defaults(deployment).items():
            values[flag] = values.get(flag) or value
    values |= _gpu_flags(gpu) if gpu is not None else {}
    if deployment.config.otlp_endpoint is not None:
        values["--otlp-traces-endpoint"] = deployment.config.otlp_endpoint
    flags = [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    flags += ["--enable-trace"] if deployment.config.otlp_endpoint is not None else []
    return flags if engine.overlap_schedule else [*flags, "--disable-overlap-schedule"]


def _gpu_flags(gpu: GpuPlace) -> dict[str, object]:
    flags: dict[str, object] = {"--base-gpu-id": gpu.first_gpu}
    if gpu.kv_tokens is not None:
        flags |= {"--max-total-tokens": gpu.kv_tokens, "--mem-fraction-static": gpu.mem_fraction}
    return flags


def _cpu_defaults(deployment: ResolvedDeployment) -> dict[str, object]:
    return {
        "--attention-backend": "torch_native",
        "--sampling-backend": "pytorch",
        "--max-running-requests": CPU_MAX_RUNNING_REQUESTS,
        # SGLang wants whole pages.
        "--chunked-prefill-size": max(1, CPU_CHUNKED_PREFILL_TOKENS // deployment.page_size) * deployment.page_size,
        "--max-total-tokens": cpu_kv_tokens(deployment),
    }


def cpu_kv_tokens(deployment: ResolvedDeployment) -> int:
    """Return the tokens of KV that fit a quarter of the free memory, in whole pages, where the file does not say it."""
    budget = min(CPU_MAX_KV_BYTES, (available_memory_bytes() or 4 * CPU_MAX_KV_BYTES) // 4)
    tokens = min(CPU_MAX_KV_TOKENS, max(CPU_MIN_KV_TOKENS, budget // kv_token_bytes(deployment)))
    return max(1, tokens // deployment.page_size) * deployment.page_size


def _environment(
    deployment: ResolvedDeployment, on_cpu: bool, extra_args: Sequence[str], gpu: GpuPlace | None = None
) -> dict[str, str]:
    # joblib, which SGLang imports and does not use, would leave a semaphore behind in every killed process.
    environment = {"SGLANG_PLUGINS": PLUGINS, "PYTHONWARNINGS": "ignore", "JOBLIB_MULTIPROCESSING": "0"}
    environment[DEPLOYMENT_VARIABLE] = deployment.config.name
    environment |= loopback_variables((*deployment.config.engine.extra_args, *extra_args))
    if deployment.config.otlp_endpoint is not None:
        # SGLang's own default, 3, makes a span of every decode step.
        environment["SGLANG_TRACE_LEVEL"] = os.environ.get("SGLANG_TRACE_LEVEL", "2")
    threads = deployment.config.engine.threads
    if on_cpu:
        # A GPU that is there but must not be used would make SGLang choose its CUDA platform.
        environment["CUDA_VISIBLE_DEVICES"] = ""
        threads = threads or default_threads()
    elif gpus():  # not those of a machine that is only planned for
        environment |= compiler_variables()
    if gpu is not None and gpu.num_workers > 1:
        # Its neighbours load their weights at the same time, on one GPU of the group sooner than on another.
        environment["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] = "0"
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment

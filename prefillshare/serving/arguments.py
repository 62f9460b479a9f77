"""The one place where a deployment becomes the engine's command line and environment.

Flags are those of `sglang serve` at 0.5.17 (sglang/srt/server_args.py).
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
from prefillshare.modules.fingerprint import geometry
from prefillshare.serving.machine import available_memory_bytes, default_threads, gpus
from prefillshare.serving.options import DEFAULT_HOST
from sglang_patches.names import BACKEND_NAME, DEPLOYMENT_VARIABLE, FINGERPRINT_VARIABLE, PLUGINS

ENGINE_PROGRAM = (sys.executable, "-m", "sglang.launch_server")
HEARTBEAT_S = 2.0
"""Pause between two looks of a decode worker at its prefill workers; 2 is the least that SGLang allows."""
HEARTBEAT_FAILURES = 2
"""Looks in vain after which a prefill worker counts as gone."""
CPU_MAX_RUNNING_REQUESTS = 32
CPU_CHUNKED_PREFILL_TOKENS = 512
CPU_MAX_KV_BYTES = 2 << 30
CPU_MAX_KV_TOKENS = 65536
CPU_MIN_KV_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """What to run."""

    argv: tuple[str, ...]
    """Program and arguments, without the API key, which everybody on the machine could read there."""
    environment: dict[str, str]
    """Variables to set on top of the caller's."""
    api_key: str | None
    """Key that clients must send; None for an open server."""

    @property
    def engine_arguments(self) -> tuple[str, ...]:
        """The arguments without the program, as SGLang's parser takes them."""
        return self.argv[len(ENGINE_PROGRAM) :]

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
    first_gpu: int | None
    """First of its GPUs; None on CPU."""
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
    argv = _server_flags(deployment.prefill_path, deployment.config.prefill.name, host, port, nccl_port)
    argv += _lora_flags(deployment, deployment.modules, on_cpu)
    argv += _engine_flags(deployment, on_cpu)
    # SGLang computes prompts first; on a CPU, answers would stand still for seconds while others' prompts are computed.
    argv += ["--enable-mixed-chunk"] if on_cpu else []
    argv += [*deployment.config.engine.extra_args, *extra_args]
    return EngineCommand(argv=tuple(argv), environment=_environment(deployment, on_cpu), api_key=api_key)


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
    if place.first_gpu is not None:
        argv += ["--base-gpu-id", str(place.first_gpu)]
    flags = _engine_flags(deployment, on_cpu)
    # On CPU nothing overlaps, and the schedule makes repetition penalties a token late.
    argv += flags if not on_cpu or "--disable-overlap-schedule" in flags else [*flags, "--disable-overlap-schedule"]
    argv += [*deployment.config.engine.extra_args, *extra_args]
    environment = {**_environment(deployment, on_cpu), **_hand_off_environment(deployment)}
    return EngineCommand(argv=tuple(argv), environment=environment, api_key=api_key)


def module_command(
    deployment: ResolvedDeployment, module: ResolvedModule, *, port: int, nccl_port: int, first_gpu: int | None = None
) -> EngineCommand:
    """Return the command of a server that holds the full weights of one decode module and nothing else."""
    on_cpu = runs_on_cpu(deployment)
    argv = _server_flags(module.path, module.spec.name, DEFAULT_HOST, port, nccl_port)
    argv += ["--base-gpu-id", str(first_gpu)] if first_gpu is not None else []
    argv += [*_engine_flags(deployment, on_cpu), *deployment.config.engine.extra_args]
    return EngineCommand(argv=tuple(argv), environment=_environment(deployment, on_cpu), api_key=None)


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


def runs_on_cpu(deployment: ResolvedDeployment) -> bool:
    """Whether the deployment's engines run without an accelerator.

    Raises: ConfigError when it asks for GPUs that this machine does not have.
    """
    device, found = deployment.config.engine.device, len(gpus())
    wanted = deployment.config.engine.tensor_parallel_size
    if device == "cuda" and not found:
        raise ConfigError('device is "cuda" and this machine shows no CUDA GPU: set device = "auto" under [engine]')
    on_cpu = device == "cpu" or not found
    if wanted > max(1, found) or (on_cpu and wanted > 1):
        raise ConfigError(
            f"tensor_parallel_size is {wanted} and {0 if on_cpu else found} GPUs can be used: "
            f"set tensor_parallel_size = {1 if on_cpu else found} under [engine]"
        )
    return on_cpu


def _lora_flags(deployment: ResolvedDeployment, modules: Sequence[ResolvedModule], on_cpu: bool) -> list[str]:
    adapters = [module.adapter for module in modules if module.adapter is not None]
    targets = sorted({target for adapter in adapters for target in adapter.target_modules})
    backend = deployment.config.engine.lora_backend or ("torch_native" if on_cpu else "csgmv")
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


def _engine_flags(deployment: ResolvedDeployment, on_cpu: bool) -> list[str]:
    engine = deployment.config.engine
    values: dict[str, object] = {
        "--device": "cpu" if on_cpu else None,
        "--dtype": engine.dtype,
        "--page-size": engine.page_size,
        "--tp-size": engine.tensor_parallel_size if engine.tensor_parallel_size > 1 else None,
        "--context-length": engine.context_length,
        "--max-total-tokens": engine.max_total_tokens,
        "--mem-fraction-static": engine.mem_fraction_static,
        "--max-running-requests": engine.max_running_requests,
        "--chunked-prefill-size": engine.chunked_prefill_size,
        "--attention-backend": engine.attention_backend,
        "--random-seed": engine.random_seed,
        "--reasoning-parser": engine.reasoning_parser,
        "--tool-call-parser": engine.tool_call_parser,
    }
    if on_cpu:
        for flag, value in _cpu_defaults(deployment).items():
            values[flag] = values.get(flag) or value
    if deployment.config.otlp_endpoint is not None:
        values["--otlp-traces-endpoint"] = deployment.config.otlp_endpoint
    flags = [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    flags += ["--enable-trace"] if deployment.config.otlp_endpoint is not None else []
    return flags if engine.overlap_schedule else [*flags, "--disable-overlap-schedule"]


def _cpu_defaults(deployment: ResolvedDeployment) -> dict[str, object]:
    return {
        "--attention-backend": "torch_native",
        "--sampling-backend": "pytorch",
        "--max-running-requests": CPU_MAX_RUNNING_REQUESTS,
        "--chunked-prefill-size": CPU_CHUNKED_PREFILL_TOKENS,
        "--max-total-tokens": _cpu_kv_tokens(deployment),
    }


def _cpu_kv_tokens(deployment: ResolvedDeployment) -> int:
    """Tokens of KV that fit a quarter of the free memory, in whole pages."""
    sizes = geometry(deployment.prefill_path)
    value_bytes = 4 if deployment.config.engine.dtype == "float32" else 2
    token_bytes: int = 2 * sizes["num_layers"] * sizes["num_kv_heads"] * sizes["head_dim"] * value_bytes
    budget = min(CPU_MAX_KV_BYTES, (available_memory_bytes() or 4 * CPU_MAX_KV_BYTES) // 4)
    tokens = min(CPU_MAX_KV_TOKENS, max(CPU_MIN_KV_TOKENS, budget // token_bytes))
    page_size = deployment.config.engine.page_size
    return max(1, tokens // page_size) * page_size


def _environment(deployment: ResolvedDeployment, on_cpu: bool) -> dict[str, str]:
    # joblib, which SGLang imports and does not use, would leave a semaphore behind in every killed process.
    environment = {"SGLANG_PLUGINS": PLUGINS, "PYTHONWARNINGS": "ignore", "JOBLIB_MULTIPROCESSING": "0"}
    environment[DEPLOYMENT_VARIABLE] = deployment.config.name
    threads = deployment.config.engine.threads
    if on_cpu:
        # A GPU that is there but must not be used would make SGLang choose its CUDA platform.
        environment["CUDA_VISIBLE_DEVICES"] = ""
        threads = threads or default_threads()
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment

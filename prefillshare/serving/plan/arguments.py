"""The one place where a deployment becomes the engine's command line and environment.

Flags are those of `sglang serve` at 0.5.17 (sglang/srt/server_args.py).
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefillshare.contract import BACKEND_NAME, PLUGINS
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.plan.command import ENGINE_PROGRAM, ProcessCommand
from prefillshare.serving.plan.cpu import cpu_flags, runs_on_cpu
from prefillshare.serving.plan.engine_options import check_extra_args, check_own_values
from prefillshare.serving.plan.kernels import GPU_ATTENTION_BACKEND, GPU_LORA_BACKEND, check_kernels
from prefillshare.serving.plan.place import Place
from prefillshare.serving.plan.placement import GpuPlace
from prefillshare.serving.plan.store import store_flags, store_variables
from prefillshare.serving.plan.tenants import tenant_variables
from prefillshare.serving.plan.variables import (
    admission_variables,
    alias_variables,
    eager_variables,
    engine_variables,
    handoff_variables,
    routed_variables,
    unshared_variables,
    warning_variables,
)
from prefillshare.serving.plan.workers import Worker, count_slots, narrow, room_for

if TYPE_CHECKING:
    from prefillshare.store import StoreSettings

_CHECKED_KEYS = ("attention_backend", "reasoning_parser", "tool_call_parser")
"""Keys of the deployment file with values that only SGLang knows; it has fields of the same names."""


def worker_command(
    deployment: ResolvedDeployment,
    worker: Worker,
    place: Place,
    *,
    api_key: str | None = None,
    peer_secret: str | None = None,
    extra_args: Sequence[str] = (),
    store: "StoreSettings | None" = None,
) -> ProcessCommand:
    """Return the command that runs `worker`; `extra_args` come last and win.

    `store` is what `plan_store` made of the deployment, the same for all of its workers.

    Raises: ConfigError when the deployment asks for a device that this machine does not have, or for what SGLang lacks.
    """
    deployment = narrow(deployment, worker)
    on_cpu = runs_on_cpu(deployment)
    check_kernels(deployment, PLUGINS, extra_args)
    argv = _server_flags(worker, place)
    argv += _lora_flags(deployment, worker, on_cpu) if worker.adapters else []
    argv += _handoff_flags(deployment, worker, place)
    argv += _event_flags(place)
    argv += _engine_flags(deployment, on_cpu, place.gpu)
    argv += store_flags(deployment, worker, store)
    argv += _schedule_flags(worker, argv) if on_cpu else []
    argv += [*_checked_extra_args(deployment, argv), *extra_args]
    environment = engine_variables(deployment, on_cpu, extra_args, place)
    environment |= handoff_variables(deployment) if worker.role != "engine" else admission_variables(deployment, worker)
    environment |= store_variables(deployment, worker, store)
    environment |= eager_variables(deployment, worker) | warning_variables(deployment)
    environment |= unshared_variables(worker) | routed_variables(worker)
    environment |= alias_variables(deployment) | tenant_variables(deployment)
    return ProcessCommand(argv=tuple(argv), environment=environment, api_key=api_key, peer_secret=peer_secret)


def alone_command(deployment: ResolvedDeployment, worker: Worker, place: Place) -> ProcessCommand:
    """Return the command of a server that holds the weights of `worker` and shares nothing."""
    deployment = narrow(deployment, worker)
    on_cpu = runs_on_cpu(deployment)
    check_kernels(deployment, PLUGINS)
    argv = _server_flags(worker, place) + _engine_flags(deployment, on_cpu, place.gpu)
    argv += _checked_extra_args(deployment, argv)
    return ProcessCommand(argv=tuple(argv), environment=engine_variables(deployment, on_cpu, (), place))


def _checked_extra_args(deployment: ResolvedDeployment, argv: Sequence[str]) -> tuple[str, ...]:
    """The extra_args of the deployment file, once they and the values in `argv` are known to be taken by SGLang."""
    engine = deployment.config.engine
    check_own_values(argv[len(ENGINE_PROGRAM) :], _CHECKED_KEYS)
    check_extra_args(engine.extra_args, argv[len(ENGINE_PROGRAM) :])
    return engine.extra_args


def _server_flags(worker: Worker, place: Place) -> list[str]:
    argv = [*ENGINE_PROGRAM, "--model-path", str(worker.checkpoint), "--served-model-name", worker.model]
    argv += ["--host", place.host, "--port", str(place.port), "--nccl-port", str(place.nccl_port)]
    argv += ["--radix-cache-backend", BACKEND_NAME, "--enable-cache-report", "--sleep-on-idle"]
    argv += ["--enable-metrics"]
    # `launch` warms the engine itself, through a decode module; the stock warm-up only adds a second of waiting.
    return [*argv, "--skip-server-warmup"]


def _lora_flags(deployment: ResolvedDeployment, worker: Worker, on_cpu: bool) -> list[str]:
    room = room_for(deployment, worker.adapters)
    backend = deployment.config.engine.lora_backend or ("torch_native" if on_cpu else GPU_LORA_BACKEND)
    return [
        "--enable-lora",
        "--lora-paths",
        *(f"{module.spec.name}={module.path}" for module in worker.adapters),
        "--max-loras-per-batch",
        str(count_slots(deployment, worker)),
        "--max-lora-rank",
        str(room.max_rank),
        "--lora-target-modules",
        *room.targets,
        "--lora-backend",
        backend,
    ]


def _handoff_flags(deployment: ResolvedDeployment, worker: Worker, place: Place) -> list[str]:
    if worker.role == "engine":
        return []
    argv = ["--disaggregation-mode", worker.role]
    argv += ["--disaggregation-transfer-backend", deployment.config.transfer.backend]
    if place.bootstrap_port is not None:
        argv += ["--disaggregation-bootstrap-port", str(place.bootstrap_port)]
    if worker.role == "decode":
        argv += ["--disaggregation-decode-enable-radix-cache"]
    return argv


def _event_flags(place: Place) -> list[str]:
    if place.kv_events is None:
        return []
    return ["--kv-events-config", json.dumps({"publisher": "zmq", "endpoint": place.kv_events})]


def _schedule_flags(worker: Worker, argv: Sequence[str]) -> list[str]:
    """What a CPU does in which order."""
    if worker.role == "engine":
        # SGLang computes prompts first: answers would stand still for seconds while others' prompts are computed.
        return ["--enable-mixed-chunk"]
    # Nothing computes beside the CPU: a token would come a step later, and an answer cost a step more.
    return [] if "--disable-overlap-schedule" in argv else ["--disable-overlap-schedule"]


def _engine_flags(deployment: ResolvedDeployment, on_cpu: bool, gpu: GpuPlace | None) -> list[str]:
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
        for flag, value in cpu_flags(deployment).items():
            values[flag] = values.get(flag) or value
    values |= _gpu_flags(gpu) if gpu is not None else {}
    if deployment.config.otlp_endpoint is not None:
        values["--otlp-traces-endpoint"] = deployment.config.otlp_endpoint
    flags = [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    flags += ["--enable-trace"] if deployment.config.otlp_endpoint is not None else []
    overlaps = not on_cpu if engine.overlap_schedule is None else engine.overlap_schedule
    return flags if overlaps else [*flags, "--disable-overlap-schedule"]


def _gpu_flags(gpu: GpuPlace) -> dict[str, object]:
    flags: dict[str, object] = {"--base-gpu-id": gpu.first_gpu}
    if gpu.kv_tokens is not None:
        flags |= {"--max-total-tokens": gpu.kv_tokens, "--mem-fraction-static": gpu.mem_fraction}
    return flags

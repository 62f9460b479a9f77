"""The environment of an engine: what it finds there beside what every process finds (`machine.environment`)."""

import dataclasses
import json
import os
from collections.abc import Sequence

from prefillshare.accelerators import gpus
from prefillshare.contract import (
    ADMISSION_VARIABLE,
    ALIASES_VARIABLE,
    DEPLOYMENT_VARIABLE,
    EAGER_VARIABLE,
    FINGERPRINT_VARIABLE,
    PLUGINS,
    RESPONSES_VARIABLE,
    ROUTED_VARIABLE,
    SHARED_MEMORY_VARIABLE,
    UNSHARED_VARIABLE,
    WARNINGS_VARIABLE,
)
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.modules.unshared import adapter_kv_sha256
from prefillshare.naming.alias import as_table
from prefillshare.serving.machine.environment import network_variables
from prefillshare.serving.machine.host import default_threads
from prefillshare.serving.machine.toolkit import compiler_variables
from prefillshare.serving.plan.place import Place
from prefillshare.serving.plan.placement import GpuPlace
from prefillshare.serving.plan.workers import Worker

KEEP_ALIVE_S = 75
"""How long an idle connection stays open, as at the router. SGLang's own 5 s is what httpx and the openai client keep
theirs for, so that a call after a pause of 5 s would now and then meet a connection that is just being closed."""
HEARTBEAT_S = 2.0
"""Pause between two looks of a decode worker at its prefill workers; 2 is the least that SGLang allows."""
HEARTBEAT_FAILURES = 2
"""Looks in vain after which a prefill worker counts as gone."""


def engine_variables(
    deployment: ResolvedDeployment, on_cpu: bool, extra_args: Sequence[str], place: Place
) -> dict[str, str]:
    """Return the variables of every engine of the deployment.

    Effects: on a GPU, may write a folder of links below the user's cache directory.
    """
    # joblib, which SGLang imports and does not use, would leave a semaphore behind in every killed process.
    variables = {"SGLANG_PLUGINS": PLUGINS, "PYTHONWARNINGS": "ignore", "JOBLIB_MULTIPROCESSING": "0"}
    variables["SGLANG_TIMEOUT_KEEP_ALIVE"] = os.environ.get("SGLANG_TIMEOUT_KEEP_ALIVE", str(KEEP_ALIVE_S))
    variables[DEPLOYMENT_VARIABLE] = deployment.config.name
    if deployment.config.topology == "colocated":  # elsewhere the router remembers
        variables[RESPONSES_VARIABLE] = json.dumps(dataclasses.asdict(deployment.config.responses))
    variables |= network_variables((*deployment.config.engine.extra_args, *extra_args), place.peer_host)
    if deployment.config.otlp_endpoint is not None:
        # SGLang's own default, 3, makes a span of every decode step.
        variables["SGLANG_TRACE_LEVEL"] = os.environ.get("SGLANG_TRACE_LEVEL", "2")
    return variables | _device_variables(deployment, on_cpu, place.gpu)


def _device_variables(deployment: ResolvedDeployment, on_cpu: bool, gpu: GpuPlace | None) -> dict[str, str]:
    variables, threads = {}, deployment.config.engine.threads
    if on_cpu:
        # A GPU that is there but must not be used would make SGLang choose its CUDA platform.
        variables["CUDA_VISIBLE_DEVICES"] = ""
        threads = threads or default_threads()
        # Weights in pages of 2 MiB are read a tenth faster than in pages of 4 KiB.
        variables["THP_MEM_ALLOC_ENABLE"] = "1"
    elif gpus():  # not those of a machine that is only planned for
        variables |= compiler_variables()
    if gpu is not None and gpu.num_workers > 1:
        # Its neighbours load their weights at the same time, on one GPU of the group sooner than on another.
        variables["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] = "0"
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    return variables


def handoff_variables(deployment: ResolvedDeployment) -> dict[str, str]:
    """Return the variables of the workers of a disaggregated deployment, which hand KV over."""
    transfer = deployment.config.transfer
    timeout = str(transfer.timeout_s)
    shared = {SHARED_MEMORY_VARIABLE: "1"} if transfer.shared_memory and transfer.backend == "nixl" else {}
    return shared | {
        FINGERPRINT_VARIABLE: deployment.fingerprint,
        "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": timeout,
        "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": timeout,
        "SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": str(HEARTBEAT_S),
        "SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE": str(HEARTBEAT_FAILURES),
    }


def routed_variables(worker: Worker) -> dict[str, str]:
    """Return the variable that tells an engine that a router stands before it; none where clients ask it themselves."""
    return {ROUTED_VARIABLE: "1"} if worker.serves_whole_calls else {}


def eager_variables(deployment: ResolvedDeployment, worker: Worker) -> dict[str, str]:
    """Return the variables with which an engine computes answers ahead; none where that is switched off, and for one
    that has its own answers in its cache."""
    prefill = deployment.config.prefill
    is_wanted = prefill.eager_answers and not worker.serves_whole_calls
    return {EAGER_VARIABLE: str(prefill.eager_min_tokens)} if is_wanted else {}


def admission_variables(deployment: ResolvedDeployment, worker: Worker) -> dict[str, str]:
    """Return the variables with which an engine lets new sessions wait for memory; none where that is switched off, and
    behind a router, which bounds the calls of each worker itself."""
    wait_s = deployment.config.memory_wait_s
    return {ADMISSION_VARIABLE: str(wait_s)} if wait_s and not worker.serves_whole_calls else {}


def warning_variables(deployment: ResolvedDeployment) -> dict[str, str]:
    """Return the variables with which an engine tells its clients which modules answer badly over shared KV."""
    warnings = {module.spec.name: module.warning for module in deployment.modules if module.warning}
    return {WARNINGS_VARIABLE: json.dumps(warnings)} if warnings else {}


def alias_variables(deployment: ResolvedDeployment) -> dict[str, str]:
    """Return the variables that tell an engine which names mean which modules; across workers the router knows."""
    aliases = deployment.config.aliases if deployment.config.topology == "colocated" else {}
    return {ALIASES_VARIABLE: json.dumps(as_table(aliases))} if aliases else {}


def unshared_variables(worker: Worker) -> dict[str, str]:
    """Return the variables that tell an engine which of its modules compute their prompts themselves; none where none
    does."""
    found = {module.spec.name: adapter_kv_sha256(module.path) for module in worker.adapters if not module.spec.share}
    return {UNSHARED_VARIABLE: json.dumps(found)} if found else {}

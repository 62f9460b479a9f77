"""The first requests of a start: what is slow the first time, such as the hand-shake, happens here, not for a user."""

import time
from collections.abc import Sequence

import httpx

from prefillshare import direct
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.options import UNTRACED, LaunchOptions, auth_header
from prefillshare.serving.run.process import EngineProcess
from prefillshare.serving.run.readiness import raise_if_dead


def answer_by_engine(process: EngineProcess, url: str, deployment: ResolvedDeployment, options: LaunchOptions) -> None:
    """Generate one token with every decode module of an engine.

    A prompt of one token leaves nothing in the shared cache, for it has no base-made KV.
    Raises: LaunchError.
    """
    names = [module.spec.name for module in deployment.modules]
    body = {
        "input_ids": [[0]] * len(names),
        "lora_path": names,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
    }
    try:
        reply = _post(f"{url}/generate", body, options)
    except httpx.TransportError:
        time.sleep(1)  # the engine's main process ends a moment after the worker that failed
        raise_if_dead(process)
        raise LaunchError(f"the engine does not answer requests: read its log, {process.log_path}") from None
    if reply.status_code != 200:
        raise LaunchError(
            f"the engine refused its first request ({reply.text.strip()[:300]}): read its log, {process.log_path}"
        )


def answer_through_router(
    module: str, router: EngineProcess, workers: Sequence[EngineProcess], url: str, options: LaunchOptions
) -> None:
    """Generate one token with a decode module behind the router at `url`.

    Raises: LaunchError with the reason of the process that ended, if one did.
    """
    processes = (*workers, router)
    body = {"model": module, "prompt": [1, 1], "max_tokens": 1, "temperature": 0}
    try:
        reply = _post(f"{url}/v1/completions", body, options)
    except httpx.TransportError as error:
        for process in processes:
            raise_if_dead(process)
        raise LaunchError(f"the router does not answer ({error}): read its log, {router.log_path}") from None
    if reply.status_code != 200:
        for process in processes:
            raise_if_dead(process)
        raise LaunchError(
            f"the first request to {module} was refused ({reply.text.strip()[:300]}): read the logs beside "
            f"{router.log_path}"
        )


def _post(url: str, body: dict[str, object], options: LaunchOptions) -> httpx.Response:
    header = auth_header(options.api_key) | UNTRACED
    return direct.post(url, json=body, headers=header, timeout=options.start_timeout_s)

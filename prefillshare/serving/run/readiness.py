"""Waiting for started processes, and saying why one did not come up."""

import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from prefillshare import direct
from prefillshare.direct import direct_client
from prefillshare.errors import LaunchError
from prefillshare.serving.options import Listener, auth_header
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.process import EngineProcess
from prefillshare.serving.run.progress import FIRST_STAGE, find_reason, find_stages, last_lines, read_log

_POLL_S = 0.2
_ASK_TIMEOUT_S = 0.5


def start_fork_server(
    command: ProcessCommand, log_path: Path, timeout_s: float, on_stage: Listener = lambda stage: None
) -> ForkServer | None:
    """Return a server that has imported SGLang in the environment of `command`; None where engines cannot be forked.

    Raises: LaunchError with its reason when it does not come up.
    """
    if not command.can_be_forked:
        return None
    on_stage(FIRST_STAGE)
    forks = ForkServer(command.environment, log_path)
    try:
        wait_for_fork_server(forks, timeout_s)
    except BaseException:
        forks.close()
        raise
    return forks


def wait_for_fork_server(forks: ForkServer, timeout_s: float) -> None:
    """Wait until the fork server has imported SGLang.

    Raises: LaunchError with its reason when it ends or takes longer.
    """
    deadline = time.monotonic() + timeout_s
    try:
        while not forks.is_ready(_POLL_S):
            if time.monotonic() > deadline:
                raise LaunchError(f"SGLang was not imported within {timeout_s:.0f} s: read the log, {forks.log_path}")
    except LaunchError as error:
        log = read_log(forks.log_path)
        if reason := find_reason(log):
            raise LaunchError(f"the engine did not start: {reason}\n{_quote_end(log, str(forks.log_path))}") from None
        raise error


def wait_until_listening(
    processes: Sequence[tuple[EngineProcess, str]], api_key: str | None, timeout_s: float, on_stage: Listener
) -> None:
    """Wait until each process answers HTTP at its address; `on_stage` hears of each stage that the slowest begins.

    Raises: LaunchError with the reason of the first that ended, or when it takes longer than `timeout_s`.
    """
    deadline, waiting = time.monotonic() + timeout_s, list(processes)
    told: list[str] = []
    with direct_client(headers=auth_header(api_key), timeout=5) as client:
        while waiting := [(process, url) for process, url in waiting if not is_listening(client, url)]:
            for process, _ in processes:
                raise_if_dead(process)
            _tell_stages(waiting, told, on_stage)
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"the engine did not answer within {timeout_s:.0f} s while {told[-1]}: "
                    f"read its log, {waiting[0][0].log_path}"
                )
            time.sleep(_POLL_S)
        _tell_stages(processes, told, on_stage)


def _tell_stages(processes: Sequence[tuple[EngineProcess, str]], told: list[str], on_stage: Listener) -> None:
    """Tell each stage that every process has begun and that is not in `told` yet, and note it there.

    A stage may begin and end between two looks at the logs: it is told nevertheless, in its place.
    """
    slowest = min((find_stages(read_log(process.log_path)) for process, _ in processes), key=len, default=[])
    for stage in slowest[len(told) :]:
        told.append(stage)
        on_stage(stage)


def is_listening(client: httpx.Client, url: str) -> bool:
    """Whether an engine at `url` lists its models."""
    try:
        return client.get(f"{url}/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def wait_until_healthy(processes: Sequence[EngineProcess], url: str, api_key: str | None, timeout_s: float) -> None:
    """Wait until the router at `url` knows that its workers are up: until then it would refuse calls.

    It learns so by asking them now and then.
    Raises: LaunchError when one of `processes` ended.
    """
    deadline, header = time.monotonic() + timeout_s, auth_header(api_key)
    state = "nothing"
    while state != "ok" and time.monotonic() < deadline:
        try:
            state = direct.get(f"{url}/health", headers=header, timeout=_ASK_TIMEOUT_S).json()["status"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            state = "nothing"
        for process in processes:
            raise_if_dead(process)
        time.sleep(_ASK_TIMEOUT_S / 5)


def is_answering(url: str, api_key: str | None) -> bool:
    """Whether a process answers at `url` with status 200, at once."""
    try:
        return direct.get(url, headers=auth_header(api_key), timeout=_ASK_TIMEOUT_S).status_code == 200
    except httpx.HTTPError:
        return False


def raise_if_dead(process: EngineProcess) -> None:
    """Raise LaunchError with the engine's reason and last lines when it has ended."""
    code = process.exit_code()
    if code is None:
        return
    log = read_log(process.log_path)
    ending = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    reason = find_reason(log) or f"it {ending} without a reason"
    raise LaunchError(f"the engine did not start: {reason}\n{_quote_end(log, str(process.log_path))}")


def _quote_end(log: str, path: str) -> str:
    return "\n".join([f"Its last lines ({path}):", *(f"  {line}" for line in last_lines(log))])

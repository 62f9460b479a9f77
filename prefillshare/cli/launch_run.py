"""`prefillshare launch` on this machine: the start, what is said when it serves, and the end."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.cli.output import put, put_json, put_table, say, warn
from prefillshare.cli.server_options import url_words

if TYPE_CHECKING:
    from prefillshare.cli.detached import Detached
    from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
    from prefillshare.serving.launch import RunningDeployment
    from prefillshare.serving.options import LaunchOptions


def serve(
    deployment: "ResolvedDeployment",
    options: "LaunchOptions",
    *,
    drain_s: float,
    as_json: bool,
    with_dashboard: bool,
    detached: "Detached | None",
) -> None:
    """Serve the deployment until somebody wants it to stop, and let calls end for up to `drain_s` seconds.

    `detached` leaves the terminal when it serves.
    """
    from prefillshare.cli.launch_dashboard import Dashboard
    from prefillshare.cli.progress import StageLines
    from prefillshare.serving.launch import launch as start
    from prefillshare.serving.machine.logs import new_log_path
    from prefillshare.serving.run.record import remove_record, write_admin_key
    from prefillshare.serving.stopping import StopRequested, serve_until_stopped, stop_signals

    config, log_path, dashboard = deployment.config, None, Dashboard()
    tell = say if detached is None else detached.say
    say(f"starting {_describe_start(deployment)} over prefill module {_describe_prefill(deployment)}")
    with stop_signals():
        try:
            if detached is not None:
                log_path = new_log_path(f"{config.name}.launcher")
            _record_start(deployment, options, log_path)
            with StageLines() as stages:
                running = start(deployment, options, stages.show, dashboard.say if detached is None else tell)
        except StopRequested:
            remove_record(os.getpid())
            say("stopped before it was ready")
            return
        except BaseException:
            remove_record(os.getpid())
            raise
        if running.admin_key:
            write_admin_key(os.getpid(), running.admin_key)
        dashboard.watch(running)

        def announce() -> None:
            _print_ready(running, as_json=as_json, is_detached=detached is not None)
            if detached is not None and log_path is not None:
                detached.leave(log_path)
                tell(f"{config.name} serves at {running.url}")

        companion = dashboard if with_dashboard else None
        serve_until_stopped(running, drain_s, tell, announce, companion, log_path)
    tell("stopped")


def _record_start(deployment: "ResolvedDeployment", options: "LaunchOptions", log_path: Path | None) -> None:
    """Let `ps` and `stop` find it while it starts."""
    from prefillshare.places import state_directory
    from prefillshare.serving.machine.ports import client_host
    from prefillshare.serving.run.record import record_of, remove_record, write_record

    remove_record(os.getpid())  # of an earlier process with this number
    config = deployment.config
    record = record_of(
        config.name,
        config.topology,
        f"http://{client_host(options.host)}:{options.port}",
        config.model_names,
        (),
        state="starting",
        log=log_path,
        overrides=config.overrides,
    )
    if not write_record(record):
        warn(f"nothing can be written below {state_directory()}, so `ps`, `stop` and `ask` do not find this deployment")


def _print_ready(running: "RunningDeployment", *, as_json: bool, is_detached: bool = False) -> None:
    say(f"ready after {running.start_s:.1f} s, log in {running.log_path}")
    if as_json:
        put_json(
            {
                "url": running.url,
                "pid": running.pid,
                "launcher": os.getpid(),
                "log": running.log_path,
                "models": running.model_names,
                "prefill": running.deployment.config.prefill.name,
                "fingerprint": running.deployment.fingerprint,
                "start_s": round(running.start_s, 2),
                "warnings": running.deployment.warnings,
            }
        )
        return
    rows = [(module.spec.name, _describe_role(module), str(module.path)) for module in running.deployment.modules]
    rows.append((running.deployment.config.prefill.name, "prefill (base)", str(running.deployment.prefill_path)))
    put(f"\nOpenAI endpoint: {running.url}/v1\n")
    put_table(("model", "role", "files"), rows)
    put(f"\n{_make_curl_line(running)}\n")
    where, name = url_words(running.url), shlex.quote(running.deployment.config.name)
    end = f"`prefillshare stop {name}` ends it" if is_detached else "Ctrl-C stops"
    say(f"ask it with `prefillshare ask{where}`, talk with `prefillshare chat{where}`; {end}")


def _describe_start(deployment: "ResolvedDeployment") -> str:
    config = deployment.config
    if config.topology == "colocated":
        return "the engine"
    num_decode = sum(module.replicas for module in config.decode if module.share)
    num_engines = sum(module.replicas for module in config.decode if not module.share)
    engines = f", and {num_engines} engine{'s'[: num_engines > 1]} of modules with share = false" if num_engines else ""
    return f"{config.prefill.workers} prefill and {num_decode} decode workers{engines}"


def _describe_prefill(deployment: "ResolvedDeployment") -> str:
    return f"{deployment.config.prefill.name} ({deployment.fingerprint[:19]})"


def _describe_role(module: "ResolvedModule") -> str:
    kind = "full weights" if module.adapter is None else f"LoRA rank {module.adapter.rank}"
    copies = f", {module.spec.replicas} replicas" if module.spec.replicas > 1 else ""
    warning = f"; {module.warning}" if module.warning else ""
    return f"decode, {kind}{copies}{warning}"


def _make_curl_line(running: "RunningDeployment") -> str:
    key = ' -H "Authorization: Bearer $PREFILLSHARE_API_KEY"' if running.api_key else ""
    first = running.deployment.config.decode[0]
    body = json.dumps({"model": first.name, "messages": [{"role": "user", "content": first.example}]})
    return f"curl {running.url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"

"""`prefillshare launch`."""

import json
import os
import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import launch_options as given
from prefillshare.cli.launch_memory_table import memory_table
from prefillshare.cli.output import put, put_comment_table, put_json, put_table, say, warn
from prefillshare.cli.server_options import url_words

if TYPE_CHECKING:
    from pathlib import Path

    from prefillshare.accelerators import Gpu
    from prefillshare.config import Deployment
    from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
    from prefillshare.serving.launch import RunningDeployment
    from prefillshare.serving.options import LaunchOptions

DRAIN_S = 8.0


def launch(
    file: given.DeploymentFile = None,
    host: given.Host = "127.0.0.1",
    port: given.Port = 30000,
    api_key: given.ServerKey = None,
    admin_key: given.AdminKey = None,
    admin_key_file: given.AdminKeyFile = None,
    dry_run: given.DryRun = False,
    assume_gpus: given.AssumedGpus = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
    otlp_endpoint: given.OtlpEndpoint = None,
    log_file: given.LogFile = None,
    tui: given.ShowDashboard = False,
    cluster: given.ClusterAddress = None,
    detach: given.Detach = False,
) -> None:
    """Serve the modules of a deployment file until Ctrl-C."""
    from prefillshare.config import load_deployment
    from prefillshare.extras import require
    from prefillshare.modules.deployment import resolve
    from prefillshare.open_files import find_shortage
    from prefillshare.serving.embedded import embedded_deployment
    from prefillshare.serving.machine.logs import check_log_file
    from prefillshare.serving.machine.ports import check_address, check_port
    from prefillshare.serving.options import LaunchOptions

    if tui:
        _check_screen(as_json, dry_run)
        require("dashboard")
    found = _parse_assumed_gpus(assume_gpus, dry_run)
    check_port(port)
    if log_file is not None:
        check_log_file(log_file)
    config = load_deployment(file or embedded_deployment())
    if otlp_endpoint is not None:
        config = replace(config, otlp_endpoint=otlp_endpoint)
    if (address := _find_cluster(config, cluster, detach)) is not None:
        _check_cluster_options(host, api_key, admin_key, log_file, tui)
        if dry_run:
            from prefillshare.cli.launch_cluster_plan import plan_on_cluster

            plan_on_cluster(config, address, port, found, as_json=as_json)
        else:
            from prefillshare.cli.launch_cluster import launch_on_cluster

            launch_on_cluster(config, address, port, detach=detach, as_json=as_json)
        return
    if assume_gpus is None:
        check_address(host, port)
    if not dry_run:
        require("engine")
        if (shortage := find_shortage()) is not None:
            warn(shortage)
        say(f"{config.name}: checking the modules (a large one is read once, then remembered)")
    deployment = resolve(config, found)
    _say_what_is_planned(deployment)
    given.warn_if_open(host, port, api_key)
    options = LaunchOptions(
        host=host,
        port=port,
        api_key=api_key or None,
        admin_key=given.choose_admin_key(admin_key, admin_key_file),
        log_path=log_file,
    )
    if dry_run:
        _print_plan(deployment, options, as_json)
    else:
        _serve(deployment, options, as_json, tui)


def _find_cluster(config: "Deployment", given_address: str | None, detach: bool) -> str | None:
    """Return the address of the cluster to serve it on; None for this machine."""
    from prefillshare.config.cluster import check_address
    from prefillshare.errors import ConfigError

    address = given_address or (config.cluster.address if config.cluster is not None else None)
    if address is None and detach:
        raise ConfigError("--detach leaves a deployment on a cluster: name one with --cluster, or leave it out")
    if given_address is not None:
        check_address(given_address, "--cluster")
    return address


def _check_cluster_options(
    host: str, api_key: str | None, admin_key: str | None, log_file: "Path | None", tui: bool
) -> None:
    from prefillshare.errors import ConfigError

    useless = {
        "--host": (host != "127.0.0.1", "write network under [cluster]"),
        "--api-key": (bool(api_key), "write api_key_file under [cluster]: keys do not travel with a command"),
        "--admin-key": (bool(admin_key), "workers make it out of token_file under [cluster]"),
        "--log-file": (log_file is not None, "logs lie on the nodes, `prefillshare logs WORKER` reads them"),
        "--tui": (tui, "use `prefillshare top --cluster`"),
    }
    for option, (is_given, advice) in useless.items():
        if is_given:
            raise ConfigError(f"{option} is for one machine, and this deployment goes to a cluster: {advice}")


def _say_what_is_planned(deployment: "ResolvedDeployment") -> None:
    from prefillshare.config.roles import describe_limits
    from prefillshare.serving.launch import plan_warnings
    from prefillshare.serving.plan.store import describe_store, plan_store
    from prefillshare.serving.plan.transfer import describe_transfer

    config = deployment.config
    for text in (*deployment.warnings, *plan_warnings(deployment)):
        warn(text)
    if (store := plan_store(deployment)) is not None:
        say(describe_store(store))
    if config.topology == "disaggregated":
        say(describe_transfer(deployment))
    if config.roles.follow_load:
        say(describe_limits(config.roles, [module.name for module in config.decode]))


def _check_screen(as_json: bool, dry_run: bool) -> None:
    from prefillshare.errors import ConfigError

    if as_json or dry_run:
        raise ConfigError(
            f"--tui shows the dashboard, {'--json' if as_json else '--dry-run'} prints: leave one of them out"
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("--tui needs a terminal: leave it out, and watch from another one with `prefillshare top`")


def _parse_assumed_gpus(text: str | None, dry_run: bool) -> "tuple[Gpu, ...] | None":
    from prefillshare.accelerators import assumed_gpus
    from prefillshare.errors import ConfigError

    if text is None:
        return None
    if not dry_run:
        raise ConfigError(
            "--assume-gpus plans for another machine: add --dry-run, or leave it out to serve on this one"
        )
    return assumed_gpus(text)


def _print_plan(deployment: "ResolvedDeployment", options: "LaunchOptions", as_json: bool) -> None:
    from dataclasses import asdict

    from prefillshare.serving.launch import plan, plan_memory

    commands = plan(deployment, options)
    sizes = {budget.name: budget for budget in plan_memory(deployment)}
    if as_json:
        put_json(
            [
                {
                    "name": name,
                    "argv": command.argv,
                    "environment": command.environment,
                    "memory": asdict(sizes[name]),
                }
                for name, command in commands.items()
            ]
        )
        return
    put_comment_table(*memory_table(list(sizes.values())))
    for name, command in commands.items():
        put(f"# {name}\n{command.as_shell()}" if len(commands) > 1 else command.as_shell())


def _serve(deployment: "ResolvedDeployment", options: "LaunchOptions", as_json: bool, tui: bool) -> None:
    from prefillshare.cli.launch_dashboard import Dashboard
    from prefillshare.cli.progress import StageLines
    from prefillshare.serving.launch import launch as start
    from prefillshare.serving.run.record import write_admin_key
    from prefillshare.serving.stopping import StopRequested, serve_until_stopped, stop_signals

    prefill = f"{deployment.config.prefill.name} ({deployment.fingerprint[:19]})"
    say(f"starting {_describe_start(deployment)} over prefill module {prefill}")
    dashboard = Dashboard()
    with stop_signals():
        try:
            with StageLines() as stages:
                running = start(deployment, options, stages.show, dashboard.say)
        except StopRequested:
            say("stopped before it was ready")
            return
        if running.admin_key:
            write_admin_key(os.getpid(), running.admin_key)
        dashboard.watch(running)
        serve_until_stopped(running, DRAIN_S, say, lambda: _print_ready(running, as_json), dashboard if tui else None)
    say("stopped")


def _print_ready(running: "RunningDeployment", as_json: bool) -> None:
    say(f"ready after {running.start_s:.1f} s, log in {running.log_path}")
    if as_json:
        put_json(
            {
                "url": running.url,
                "pid": running.pid,
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
    where = url_words(running.url)
    say(f"ask it with `prefillshare ask{where}`, talk with `prefillshare chat{where}`; Ctrl-C stops")


def _describe_start(deployment: "ResolvedDeployment") -> str:
    config = deployment.config
    if config.topology == "colocated":
        return "the engine"
    num_decode = sum(module.replicas for module in config.decode)
    return f"{config.prefill.workers} prefill and {num_decode} decode workers"


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

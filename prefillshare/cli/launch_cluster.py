"""`prefillshare launch` on a cluster."""

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from prefillshare.cli.errors import EXIT_INTERRUPTED
from prefillshare.cli.output import put, put_json, say, warn
from prefillshare.cli.stop_wish import StopWish

if TYPE_CHECKING:
    from prefillshare.cluster.plan import Plan
    from prefillshare.cluster.roster import Roster
    from prefillshare.config import Deployment

_WATCH_EVERY_S = 2.0


def launch_on_cluster(config: "Deployment", address: str, port: int, *, detach: bool, as_json: bool) -> None:
    """Make the deployment on the cluster be what the file says; then watch it until Ctrl-C, or leave it."""
    from prefillshare.cli.cluster_options import connected
    from prefillshare.cluster.prepare import prepare
    from prefillshare.extras import require
    from prefillshare.serving.stopping import StopRequested

    require("cluster")
    say(f"{config.name}: checking the modules (a large one is read once, then remembered)")
    plan, deployment = prepare(config, port)
    for text in deployment.warnings:
        warn(text)
    if plan.cluster.api_key_file is None:
        warn("anybody who can reach a router may use the server: protect it with api_key_file under [cluster]")
    with connected(address):
        stop = StopWish()
        try:
            roster = _apply(plan, stop)
            _print_ready(plan, roster, address, as_json)
            if not detach:
                _watch(plan, stop)
        except StopRequested:
            if detach:
                say("stopped before everything served: what this command started is ended again, the rest stays")
                raise SystemExit(EXIT_INTERRUPTED) from None
            _stop(plan)


def _apply(plan: "Plan", stop: StopWish) -> "Roster":
    from prefillshare.cluster.change import Changer, check_prefill
    from prefillshare.cluster.roster import read_plan, read_roster
    from prefillshare.serving.options import START_TIMEOUT_S

    roster = read_roster(plan.config.name)
    if roster.members:
        say(f"{roster.name} is on the cluster already: it becomes what the file says")
        running = read_plan(roster)
        check_prefill(plan, running)
        if running.port != plan.port:
            warn(f"its routers keep port {running.port}: stop and launch to move them to {plan.port}")
        plan = replace(plan, number=running.number + 1)
    return Changer(plan=plan, say=say, timeout_s=START_TIMEOUT_S, check=stop.check).apply()


def _print_ready(plan: "Plan", roster: "Roster", address: str, as_json: bool) -> None:
    urls = [router.url for router in roster.routers() if router.url]
    if as_json:
        members = [asdict(member) for member in roster.members]
        put_json({"url": roster.url(), "routers": urls, "members": members, "fingerprint": plan.fingerprint})
        return
    for url in urls:
        put(f"OpenAI endpoint: {url}/v1")
    say(
        f"`prefillshare ps --cluster {address}` shows it, `prefillshare stop {roster.name} --cluster {address}` ends it"
    )


def _watch(plan: "Plan", stop: StopWish) -> None:
    """Say what changes until a signal comes."""
    from prefillshare.cluster.roster import read_roster

    known: dict[str, str] = {}
    while True:
        stop.check()
        now = {member.name: f"{member.state} on {member.node}" for member in read_roster(plan.config.name).members}
        if known and not now:
            say("the deployment was stopped by somebody else")
            return
        for name in sorted(now.keys() | known.keys()):
            if known and known.get(name) != now.get(name):
                say(f"{name}: {now.get(name, 'has left')}")
        known = now
        time.sleep(_WATCH_EVERY_S)


def _stop(plan: "Plan") -> None:
    from prefillshare.cluster.change import stop_deployment
    from prefillshare.cluster.members import list_deployments

    name = plan.config.name
    say("stopping: running requests get up to 8 s (Ctrl-C again ends this command, not the deployment)")
    stop_deployment(name, list_deployments().get(name, []), 8.0, say)
    say("stopped")

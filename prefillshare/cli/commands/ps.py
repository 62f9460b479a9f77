"""`prefillshare ps`."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.output import put, put_json, put_table, say

if TYPE_CHECKING:
    from prefillshare.serving.run.record import DeploymentRecord, ProcessRecord

_HEADER = ("process", "pid", "address", "state", "restarts")
"""With role and module, 80 letters would be too few for addresses; most names say both."""


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    cluster: given.Address = None,
) -> None:
    """List running deployments and their processes.

    Those of this user on this machine, or those on a cluster.
    """
    from dataclasses import asdict

    if cluster:
        _print_cluster(cluster, as_json)
        return
    from prefillshare.serving.run.record import read_left_over, read_records

    records, left_over = read_records(), read_left_over()
    if as_json:
        put_json([asdict(record) for record in records])
    elif not records and not left_over:
        say("no deployment is running; start one with `prefillshare launch`")
    for record in () if as_json else records:
        _print(record)
    for record in left_over:
        _tell_left_over(record)


def _print(record: "DeploymentRecord") -> None:
    starting = ", starting" if record.state == "starting" else ""
    put(f"{record.name} ({record.topology}) at {record.url}, launcher pid {record.pid}{starting}")
    if record.overrides:
        put(f"with {' '.join(f'--set {shlex.quote(text)}' for text in record.overrides)}")
    if not record.processes:
        return
    put_table(_HEADER, [_row(process) for process in record.processes])


def _row(process: "ProcessRecord") -> tuple[str, ...]:
    """What is no part of its name, such as one that a worker was given, stands behind it."""
    told = [part for part in (process.role, process.module) if part and part not in process.name]
    name = f"{process.name} ({' '.join(told)})" if told else process.name
    return name, str(process.pid or "-"), process.url, process.state, str(process.num_restarts)


def _tell_left_over(record: "DeploymentRecord") -> None:
    """Say what a launcher left that was killed; where nothing runs any more, it is forgotten."""
    from prefillshare.serving.run.local import clear_left_over, find_remains

    killed = f"{record.name} at {record.url}: its launcher, pid {record.pid}, was killed"
    if remains := find_remains(record):
        say(f"{killed}, and {', '.join(remains)} still run: `prefillshare stop {record.pid}` ends them")
        return
    said = f"; what it said: {record.log}" if record.log else ""
    clear_left_over(record, say)
    say(f"{killed}; nothing of it is left{said}")


def _print_cluster(address: str, as_json: bool) -> None:
    from dataclasses import asdict

    from prefillshare.cli.cluster_table import print_rosters

    with given.connected(address):
        from prefillshare.cluster.roster import explain_waits, read_rosters

        rosters = [explain_waits(roster) for roster in read_rosters()]
    if as_json:
        put_json([{**asdict(roster), "url": roster.url()} for roster in rosters])
    else:
        print_rosters(rosters)

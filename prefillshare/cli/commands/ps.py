"""`prefillshare ps`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.output import put, put_json, put_table, say

if TYPE_CHECKING:
    from prefillshare.serving.run.record import DeploymentRecord


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    cluster: given.Address = None,
) -> None:
    """List the running deployments of this user and their processes, or those on a cluster."""
    from dataclasses import asdict

    if cluster:
        _print_cluster(cluster, as_json)
        return
    from prefillshare.serving.run.record import read_records

    records = read_records()
    if as_json:
        put_json([asdict(record) for record in records])
    elif not records:
        say("no deployment is running; start one with `prefillshare launch`")
    for record in () if as_json else records:
        _print(record)


def _print(record: "DeploymentRecord") -> None:
    put(f"{record.name} ({record.topology}) at {record.url}, launcher pid {record.pid}: {', '.join(record.models)}")
    rows = [
        (
            process.name,
            process.role,
            process.module or "-",
            str(process.pid or "-"),
            process.url,
            process.state,
            str(process.num_restarts),
        )
        for process in record.processes
    ]
    put_table(("process", "role", "module", "pid", "address", "state", "restarts"), rows)


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

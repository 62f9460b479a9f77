"""`prefillshare scale`."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.errors import EXIT_INTERRUPTED
from prefillshare.cli.output import say
from prefillshare.cli.stop_wish import StopWish

if TYPE_CHECKING:
    from prefillshare.cluster.plan import Group, Plan

Wanted = Annotated[
    list[str], typer.Argument(metavar="MODULE=N...", help="Such as math=3; prefill=2 for prefill workers.")
]


def scale(wanted: Wanted, cluster: given.Address = None, deployment: given.Deployment = None) -> None:
    """Change how many workers a deployment on a cluster has.

    That holds until it is launched again.
    """

    numbers = _read_sizes(wanted)
    with given.connected(cluster):
        from prefillshare.cluster.change import Changer
        from prefillshare.cluster.roster import choose_deployment, read_plan, read_roster
        from prefillshare.serving.options import START_TIMEOUT_S
        from prefillshare.serving.stopping import StopRequested

        stop = StopWish()
        plan = read_plan(read_roster(choose_deployment(deployment)))
        sizes = _find_groups(plan, numbers)
        try:
            Changer(plan=plan, say=say, timeout_s=START_TIMEOUT_S, check=stop.check).apply(sizes)
        except StopRequested:
            say("stopped: what this command started is ended again, the rest stays")
            raise SystemExit(EXIT_INTERRUPTED) from None
    say(", ".join(f"{label}={number}" for label, number in numbers.items()))


def _find_groups(plan: "Plan", numbers: dict[str, int]) -> "dict[Group, int]":
    from prefillshare.cluster.plan import find_group

    return {find_group(plan, label): number for label, number in numbers.items()}


def _read_sizes(wanted: list[str]) -> dict[str, int]:
    from prefillshare.errors import ConfigError

    numbers: dict[str, int] = {}
    for label, number in map(_parse, wanted):
        if numbers.setdefault(label, number) != number:
            raise ConfigError(f"{label} is to be {numbers[label]} and {number}: give one number")
    return numbers


def _parse(text: str) -> tuple[str, int]:
    from prefillshare.errors import ConfigError

    label, _, number = text.rpartition("=")
    if not label or not number.isascii() or not number.isdigit() or int(number) < 1:
        raise ConfigError(
            f"{text!r} is no size: write MODULE=N with N of at least 1, such as math=3 (`prefillshare stop` ends all)"
        )
    return label, int(number)

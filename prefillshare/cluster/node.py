"""The node that a member finds itself on: its address, and whether its files are those that were meant."""

import ipaddress
import os

from prefillshare import __version__
from prefillshare.accelerators import VISIBLE_VARIABLE
from prefillshare.cluster.plan import Member, needed_part
from prefillshare.errors import ConfigError, LaunchError, ModuleError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.modules.digest import module_digest


def find_address(network: str | None, known_by: str) -> str:
    """Return this node's address in `network`; without one, that by which Ray knows it.

    Raises: LaunchError when it has none.
    """
    if network is None:
        return known_by
    import psutil

    wanted = ipaddress.ip_network(network)
    found = [entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries]
    addresses = [address for address in found if _is_address(address)]
    for address in addresses:
        if ipaddress.ip_address(address) in wanted:
            return address
    raise LaunchError(
        f"node {os.uname().nodename} has no address in network {network} under [cluster]; it has {', '.join(addresses)}"
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False  # that of the hardware
    return True


def resolve_here(member: Member) -> ResolvedDeployment:
    """Find on this node what `member` needs, and make sure that it is what the launcher meant.

    Raises: ModuleError or ConfigError when files are missing, or differ from those of the launcher.
    """
    plan, node = member.plan, os.uname().nodename
    if plan.version != __version__:
        raise ConfigError(
            f"node {node} has PrefillShare {__version__} and the launcher {plan.version}: install the same on all"
        )
    deployment = resolve(needed_part(plan, member.group))
    if deployment.fingerprint != plan.fingerprint:
        found, where = deployment.fingerprint[:19], deployment.prefill_path
        raise ModuleError(
            f"prefill module {plan.config.prefill.name!r} in {where} on node {node} is {found}, and "
            f"{plan.fingerprint[:19]} where it was launched: copy the same files to all nodes"
        )
    for module in deployment.modules:
        wanted, found = plan.digests[module.spec.name], module_digest(module.spec)
        if found != wanted:
            raise ModuleError(
                f"decode module {module.spec.name!r} is {found[:19]} on node {node}, and {wanted[:19]} where it was "
                "launched: copy the same files to all nodes, or name a revision of the hub"
            )
    return deployment


def hide_gpus_of_others(num_gpus: int) -> None:
    """Let this process see no GPU when it was given none: Ray hides them from those only that asked for some."""
    if num_gpus == 0:
        os.environ[VISIBLE_VARIABLE] = ""

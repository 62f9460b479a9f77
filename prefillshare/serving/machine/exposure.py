"""Who could reach a deployment on this machine: addresses, what is encrypted there, and who can read its secrets."""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from prefillshare.peer_keys import can_encrypt
from prefillshare.private_files import how_to_make, judge_private
from prefillshare.serving.machine.finding import Finding
from prefillshare.serving.machine.ray_probe import RayDoor, try_door
from prefillshare.serving.options import DEFAULT_HOST

_NETWORK_VARIABLES = {
    "SGLANG_HOST_IP": DEFAULT_HOST,
    "UCX_NET_DEVICES": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
"""What the user sets stays, and what keeps the processes of one machine to themselves."""
_UNPROVED = "NIXL's transport takes whoever reaches it: use a private interface, or WireGuard"
_EVERYWHERE = ("0.0.0.0", "::", "")
_WANT_TOKEN = (
    "whoever reaches a port of the cluster can run programs on its nodes: set RAY_AUTH_MODE=token and "
    "RAY_AUTH_TOKEN_PATH=FILE wherever `ray start` and `prefillshare` run"
)

TryDoor = Callable[[str, Mapping[str, str]], RayDoor | None]


def check_network(host: str, *, has_workers: bool, environment: Mapping[str, str] = os.environ) -> Finding:
    """Look at the addresses at which a server at `host` would listen, and its workers."""
    changed = [
        f"{name}={environment[name]}" for name, own in _NETWORK_VARIABLES.items() if _differs(environment, name, own)
    ]
    if changed:
        fix = f"it opens ports to that network without any key: unset it, unless that is meant; {_UNPROVED}"
        return Finding(name="network", state="warning", value=", ".join(changed), fix=fix)
    addresses = _own_addresses() if host in _EVERYWHERE else [host]
    public = [address for address in addresses if _is_public(address)]
    where = f"HTTP at {host}, all else at {DEFAULT_HOST}"
    if has_workers and not _is_loopback(host):
        where = f"`launch` and `router`: HTTP alone at {host}; `worker`: HTTP, bootstrap, hand-off, KV events, NIXL"
    if public:
        fix = (
            f"{', '.join(public)} may be reached from the internet, and HTTP is not encrypted: put a proxy with TLS in "
        )
        fix += f"front of the server; for workers, {_UNPROVED}"
        return Finding(name="network", state="warning", value=where, fix=fix)
    if has_workers and not _is_loopback(host):
        return Finding(name="network", state="warning", value=where, fix=f"of a worker's ports, {_UNPROVED}")
    return Finding(name="network", state="ok", value=where)


def check_encryption() -> Finding:
    """Look whether workers can prove to each other who they are."""
    if can_encrypt():
        return Finding(name="encryption", state="ok", value="ZeroMQ has CURVE, by which workers know each other")
    fix = "workers that hand KV over will not start: install the pyzmq of the lock"
    return Finding(name="encryption", state="problem", value="ZeroMQ was built without CURVE", fix=fix)


def check_secrets(files: Iterable[tuple[str, Path]]) -> Finding:
    """Look at files that hold secrets, each with its name for people."""
    looked = list(files)
    for name, path in looked:
        fix = f"chown {path} to you and chmod 600 {path}"
        try:
            problem = judge_private(path.stat())
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            fix = how_to_make(path) if isinstance(error, FileNotFoundError) else fix
        if problem:
            return Finding(name="secrets", state="problem", value=f"{name} {path} {problem}", fix=fix)
    value = ", ".join(f"{name} {path} is private" for name, path in looked) or "no files of keys are named"
    return Finding(name="secrets", state="ok", value=value)


def check_ray(
    address: str | None, environment: Mapping[str, str] = os.environ, try_door: TryDoor = try_door
) -> Finding:
    """Look whether the Ray cluster at `address` wants to know who comes: it is asked, where it answers."""
    door = try_door(address, environment) if address else None
    has_token = environment.get("RAY_AUTH_MODE", "").lower() == "token"
    if door is not None and door.stranger == "taken":
        return Finding(name="Ray", state="warning", value=f"{address} takes callers who have no token", fix=_WANT_TOKEN)
    if door is not None and door.stranger == "refused":
        if door.own == "taken":
            return Finding(name="Ray", state="ok", value=f"{address} wants a token, and takes this one")
        fix = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's token"
        own = "another one than this" if has_token else "a token"
        return Finding(name="Ray", state="problem", value=f"{address} wants {own}", fix=fix)
    silent = f"; {address} does not answer now" if door is not None else ""
    if has_token:
        return Finding(name="Ray", state="ok", value=f"RAY_AUTH_MODE=token: what is started wants a token{silent}")
    return Finding(name="Ray", state="warning", value=f"RAY_AUTH_MODE is not token{silent}", fix=_WANT_TOKEN)


def check_logs(folder: Path) -> Finding:
    """Look who can read the folder of logs and records; engines write their keys into their logs."""
    while not folder.exists():
        folder = folder.parent
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022 and not mode & stat.S_ISVTX:
        fix = f"others could put files in place of logs and records: chmod go-w {folder}"
        return Finding(
            name="logs", state="warning", value=f"{folder} can be written by others (mode {mode:o})", fix=fix
        )
    return Finding(name="logs", state="ok", value=f"{folder} is written by its owner alone; logs have mode 600")


def _differs(environment: Mapping[str, str], name: str, own: str) -> bool:
    return environment.get(name, own) not in (own, "")


def _own_addresses() -> list[str]:
    import psutil  # only a server for everybody needs it

    entries = [entry.address.partition("%")[0] for found in psutil.net_if_addrs().values() for entry in found]
    return [address for address in entries if _parse(address) is not None]  # those of hardware are listed, too


def _is_public(address: str) -> bool:
    parsed = _parse(address)
    return parsed is not None and parsed.is_global


def _is_loopback(host: str) -> bool:
    parsed = _parse(host)
    return host == "localhost" if parsed is None else parsed.is_loopback


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None

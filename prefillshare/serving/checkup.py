"""Does this machine have what serving needs? Each check says what it found, and what to do when that is not enough."""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.accelerators import gpus
from prefillshare.contract import PLUGINS
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.open_files import FEWEST, FILES_PER_CALL
from prefillshare.places import home_directory, is_stand_in, socket_folder, state_directory
from prefillshare.serving.machine.exposure import check_encryption, check_logs, check_network, check_ray, check_secrets
from prefillshare.serving.machine.finding import Finding, State
from prefillshare.serving.machine.host import available_memory_bytes, default_threads, num_cores
from prefillshare.serving.machine.patch_report import REPORT_COMMAND, PatchReport, ReportError, read_patch_report
from prefillshare.serving.machine.ports import check_address
from prefillshare.serving.machine.toolkit import missing_compilers

if TYPE_CHECKING:
    from prefillshare.config import Deployment
    from prefillshare.config.cluster import Cluster

_PYTHONS = ((3, 11), (3, 12))
_MIB = 1 << 20
_GIB = 1 << 30
# Three processes of about 1.2 GiB each before any weights.
_MIN_MEMORY_BYTES = 4 * _GIB
_MIN_DISK_BYTES = 1 * _GIB
_SHARED_MEMORY = "/dev/shm"
_SHARED_MEMORY_FIX = "engines of several GPUs exchange data there: give a container more, such as --shm-size 1g"
_MIN_SHARED_BYTES = 64 * _MIB
_GOOD_OPEN_FILES = 4096


def examine(host: str, port: int, deployment: Path, changes: Sequence[str] = ()) -> list[Finding]:
    """Return the findings of all checks; none of them starts or changes anything.

    `changes` are keys that the command line sets in place of the file.
    """
    report, config = _ask_patches(), _read_quietly(deployment, changes)
    checks: list[Callable[[], Finding]] = [
        _check_python,
        lambda: _check_sglang(report),
        _check_plugins,
        lambda: _check_patches(report),
        _check_device,
        _check_memory,
        lambda: _check_port(host, port),
        _check_home,
        _check_disk,
        _check_sockets,
        _check_shared_memory,
        _check_open_files,
        lambda: check_network(host, has_workers=_has_workers(config)),
        check_encryption,
        lambda: check_secrets(_secret_files(config)),
        _check_logs,
        lambda: _check_deployment(deployment, changes),
    ]
    if gpus():
        checks.insert(checks.index(_check_device) + 1, _check_compilers)
    if config is not None and config.cluster is not None:
        checks.insert(checks.index(_check_logs), partial(_check_ray, config.cluster))
    return [check() for check in checks]


def _check_ray(cluster: "Cluster") -> Finding:
    try:
        return check_ray(cluster.known_address)
    except ConfigError as error:
        value, _, fix = str(error).partition(": ")
        return Finding(name="Ray", state="problem", value=value, fix=fix)


def _check_python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] in _PYTHONS:
        return Finding(name="Python", state="ok", value=found)
    return Finding(name="Python", state="problem", value=found, fix="install with Python 3.11 or 3.12")


def _check_sglang(report: PatchReport | ReportError) -> Finding:
    if isinstance(report, ReportError):
        return Finding(name="SGLang", state="problem", value="unknown", fix=f"run `{REPORT_COMMAND}`")
    if report.installed == report.pinned:
        return Finding(name="SGLang", state="ok", value=report.pinned)
    fix = f"pip install sglang=={report.pinned}"
    if report.installed is None:
        return Finding(name="SGLang", state="problem", value="not installed", fix=fix)
    fix = f"the patches are made for {report.pinned}: {fix}"
    return Finding(name="SGLang", state="problem", value=report.installed, fix=fix)


def _check_plugins() -> Finding:
    known = {entry.name for entry in entry_points(group="sglang.srt.plugins")}
    missing = [name for name in PLUGINS.split(",") if name not in known]
    if not missing:
        return Finding(name="plugins", state="ok", value=PLUGINS)
    value = f"{', '.join(missing)} not registered"
    return Finding(name="plugins", state="problem", value=value, fix="install prefillshare again: pip install -e .")


def _check_patches(report: PatchReport | ReportError) -> Finding:
    if isinstance(report, ReportError):
        return Finding(name="patches", state="problem", value=str(report), fix=f"run `{REPORT_COMMAND}`")
    if not report.misfits:
        return Finding(name="patches", state="ok", value=f"{report.num_symbols} symbols of SGLang, all as expected")
    value = f"{len(report.misfits)} of {report.num_symbols} symbols of SGLang do not fit, first {report.misfits[0]}"
    fix = f"run `{REPORT_COMMAND}`; a fresh sglang=={report.pinned} mends changed files"
    return Finding(name="patches", state="problem", value=value, fix=fix)


def _ask_patches() -> PatchReport | ReportError:
    try:
        return read_patch_report()
    except ReportError as error:
        return error


def _check_device() -> Finding:
    found = gpus()
    if found:
        names = ", ".join(f"{gpu.name} ({gpu.memory_bytes / _GIB:.0f} GiB)" for gpu in found)
        return Finding(name="GPU", state="ok", value=names)
    value = f"none; {num_cores()} CPU cores, {default_threads()} thread(s) per engine process"
    return Finding(name="GPU", state="warning", value=value, fix="without a CUDA GPU only small models are practical")


def _check_compilers() -> Finding:
    missing = missing_compilers()
    if not missing:
        return Finding(name="compilers", state="ok", value="nvcc, C and C++ compiler, ninja, Python's headers")
    fix = "SGLang compiles kernels on its first start: install CUDA 13's toolkit, build-essential, ninja, python3-dev"
    return Finding(name="compilers", state="problem", value=f"without {', '.join(missing)}", fix=fix)


def _check_memory() -> Finding:
    available = available_memory_bytes()
    if available is None:
        return Finding(name="memory", state="warning", value="unknown", fix="have at least 4 GiB free")
    value = f"{available / _GIB:.1f} GiB free"
    if available >= _MIN_MEMORY_BYTES:
        return Finding(name="memory", state="ok", value=value)
    fix = "an engine takes about 4 GiB besides its weights: end other programs"
    return Finding(name="memory", state="problem", value=value, fix=fix)


def _check_port(host: str, port: int) -> Finding:
    try:
        check_address(host, port)
    except PrefillShareError as error:
        return Finding(name="port", state="problem", value=f"{host}:{port}", fix=str(error))
    return Finding(name="port", state="ok", value=f"{host}:{port} is free")


def _check_disk() -> Finding:
    try:
        place = state_directory()
    except ConfigError as error:
        return Finding(name="disk", state="problem", value="no place for logs", fix=str(error))
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    value = f"{free / _GIB:.1f} GiB free at {place}"
    if free >= _MIN_DISK_BYTES:
        return Finding(name="disk", state="ok", value=value)
    return Finding(name="disk", state="problem", value=value, fix="logs and caches need 1 GiB: delete something")


def _check_home() -> Finding:
    try:
        home = home_directory()
    except ConfigError as error:
        return Finding(name="home", state="problem", value="none that can be written", fix=str(error))
    if not is_stand_in(home):
        return Finding(name="home", state="ok", value=str(home))
    fix = "logs, caches and merged modules lie there and may not last: set HOME to a folder of yours"
    return Finding(name="home", state="warning", value=f"none that can be written; {home} stands in", fix=fix)


def _check_sockets() -> Finding:
    try:
        folder = socket_folder()
    except ConfigError as error:
        return Finding(name="sockets", state="problem", value="no folder for them", fix=str(error))
    return Finding(name="sockets", state="ok", value=f"in {folder}")


def _check_shared_memory() -> Finding:
    if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        value = f"{_SHARED_MEMORY} cannot be written"
        return Finding(name="shared mem", state="warning", value=value, fix=_SHARED_MEMORY_FIX)
    free = shutil.disk_usage(_SHARED_MEMORY).free
    value = f"{free / _MIB:.0f} MiB free at {_SHARED_MEMORY}"
    if free >= _MIN_SHARED_BYTES:
        return Finding(name="shared mem", state="ok", value=value)
    return Finding(name="shared mem", state="warning", value=value, fix=_SHARED_MEMORY_FIX)


def _check_open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The soft limit does not matter: `launch` raises it to the hard one.
    if hard == resource.RLIM_INFINITY:
        return Finding(name="open files", state="ok", value="unlimited")
    value = f"{hard} (raised from {soft} by launch)" if soft != hard else str(hard)
    value += f", enough for some {hard // FILES_PER_CALL} calls at a time"
    if hard >= _GOOD_OPEN_FILES:
        return Finding(name="open files", state="ok", value=value)
    fix = f"raise the hard limit, as root: ulimit -Hn {_GOOD_OPEN_FILES}, or nofile in /etc/security/limits.conf"
    state: State = "warning" if hard >= FEWEST else "problem"
    return Finding(name="open files", state=state, value=value, fix=fix)


def _check_logs() -> Finding:
    try:
        return check_logs(state_directory())
    except ConfigError as error:
        return Finding(name="logs", state="problem", value="no place for logs", fix=str(error))


def _has_workers(config: "Deployment | None") -> bool:
    return config is not None and config.topology == "disaggregated"


def _secret_files(config: "Deployment | None") -> list[tuple[str, Path]]:
    admin_key = os.environ.get("PREFILLSHARE_ADMIN_KEY_FILE")
    found = [("PREFILLSHARE_ADMIN_KEY_FILE", Path(admin_key))] if admin_key else []
    named: dict[str, Path | None] = {}
    if config is not None and config.cluster is not None and (ray_token := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        named["RAY_AUTH_TOKEN_PATH"] = Path(ray_token)
    if config is not None and config.store is not None:
        named["secret_file"] = config.store.secret_file
    if config is not None and config.cluster is not None:
        named |= {"token_file": config.cluster.token_file, "api_key_file": config.cluster.api_key_file}
    return found + [(name, path) for name, path in named.items() if path is not None]


def _read_quietly(file: Path, changes: Sequence[str]) -> "Deployment | None":
    """What the file says; None where it cannot be read, which `_check_deployment` tells."""
    from prefillshare.config import load_deployment

    try:
        return load_deployment(file, changes)
    except PrefillShareError:
        return None


def _check_deployment(file: Path, changes: Sequence[str]) -> Finding:
    from prefillshare.config import load_deployment
    from prefillshare.modules.deployment import resolve
    from prefillshare.serving.launch import plan_warnings
    from prefillshare.serving.options import LaunchOptions

    try:
        resolved = resolve(load_deployment(file, changes))
        options = LaunchOptions(api_key=os.environ.get("PREFILLSHARE_API_KEY") or None)
        warnings = [*resolved.warnings, *plan_warnings(resolved, options)]
    except PrefillShareError as error:
        return Finding(name="deployment", state="problem", value=str(file), fix=str(error))
    value = f"{file}: {', '.join(resolved.config.model_names)}"
    if warnings:
        return Finding(name="deployment", state="warning", value=value, fix=warnings[0])
    return Finding(name="deployment", state="ok", value=value)

"""`--set` of a measurement: keys of the deployments that its systems serve, whatever family they are of."""

from collections.abc import Mapping, Sequence

from prefillshare.config.overrides import apply_overrides, change_deployment, parse_override
from prefillshare.config.schema import Deployment
from prefillshare.errors import BenchError

_TABLES = ("engine", "prefill", "router", "transfer", "responses")
_DECIDED: Mapping[str, str] = {
    "engine.max_total_tokens": "give --kv-tokens, which all systems share",
    "prefill.workers": "each system has as many as it has modules",
    "prefill.name": "choose another --family",
    "prefill.path": "choose another --family",
    "prefill.hub": "choose another --family",
    "store": "give --store",
    "decode": "choose another --family, or --modules",
    "topology": "choose --systems",
}
_ACROSS_WORKERS = ("router", "transfer")


def check_changes(changes: Sequence[str], systems: Sequence[str]) -> None:
    """Check that each of `changes` makes a difference to one of `systems`.

    Raises: BenchError; ConfigError for what is no key or no value of one.
    """
    apply_overrides(Deployment, {}, changes)
    for text in changes:
        _check_change(text, systems)
    if changes and not systems:
        raise BenchError("--set changes what is started, and nothing is: give --systems, or leave --set out")


def _check_change(text: str, systems: Sequence[str]) -> None:
    change = parse_override(text)
    key, table = ".".join(change.path), change.path[0]
    keys = [f"{key}.{name}" for name in change.value] if isinstance(change.value, Mapping) else [key]
    for decided, advice in _DECIDED.items():
        if table == decided or decided in keys:
            raise BenchError(f"--set {text}: the measurement decides {decided}: {advice}")
    if table not in _TABLES:
        raise BenchError(f"--set {text}: a measurement can change keys of {', '.join(_TABLES)}")
    if table in _ACROSS_WORKERS and not any(system.endswith("-pd") for system in systems):
        raise BenchError(f"--set {text} is for workers behind a router: add shared-pd to --systems, or leave it out")


def apply_changes(deployment: Deployment, changes: Sequence[str]) -> Deployment:
    """Return the deployment with these keys changed.

    Raises: ConfigError.
    """
    return change_deployment(deployment, changes) if changes else deployment

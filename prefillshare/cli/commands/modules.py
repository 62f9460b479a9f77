"""`prefillshare add`, `remove`, `reload` and `alias`: change the modules of a deployment that serves."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefillshare.cli import cluster_options
from prefillshare.cli import server_options as given
from prefillshare.cli.output import put, put_json, say, warn
from prefillshare.cli.text import number_option, text_option

if TYPE_CHECKING:
    from prefillshare.serving.change_client import ChangeClient

AdminKey = Annotated[
    str | None,
    typer.Option(
        "--admin-key",
        help="Key for changes; without one, --api-key, or that of a deployment of yours here.",
        envvar="PREFILLSHARE_ADMIN_KEY",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Source = Annotated[
    Path, typer.Argument(metavar="FILE_OR_DIR", help="Directory of a module, or a TOML file with [[decode]] tables.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a decode module.", callback=text_option)]


def add(
    source: Source,
    name: Annotated[
        str | None, typer.Option("--name", help="Its name; without one, that of the directory.", callback=text_option)
    ] = None,
    no_share: Annotated[
        bool, typer.Option("--no-share", help="An ordinary adapter, which computes its prompts itself: share = false.")
    ] = False,
    url: given.Url = None,
    api_key: given.ApiKey = None,
    admin_key: AdminKey = None,
    as_json: AsJson = False,
) -> None:
    """Add decode modules to a deployment that serves."""
    from prefillshare.config.added import read_source

    wanted = read_source(source, name)
    if no_share:
        wanted = {module: {**table, "share": False} for module, table in wanted.items()}
    with _client(url, api_key, admin_key) as client:
        for module, table in wanted.items():
            say(f"{module}: checking and loading it at {client.url}")
            _print_done(client.change("PUT", "modules", module, table), "serves", as_json)


def reload(
    name: Name,
    url: given.Url = None,
    api_key: given.ApiKey = None,
    admin_key: AdminKey = None,
    as_json: AsJson = False,
) -> None:
    """Read a decode module's directory again.

    Calls that run end on the version that they began with.
    """
    with _client(url, api_key, admin_key) as client:
        _print_done(client.change("POST", "modules", f"{name}/reload"), "serves its new version", as_json)


def remove(
    name: Name,
    url: given.Url = None,
    api_key: given.ApiKey = None,
    admin_key: AdminKey = None,
    cluster: cluster_options.Address = None,
    deployment: cluster_options.Deployment = None,
    as_json: AsJson = False,
) -> None:
    """Remove a decode module, or an alias.

    A module goes when the calls that run have ended.
    """
    with _client(url, api_key, admin_key, cluster, deployment) as client:
        kind = "aliases" if name in client.aliases() else "modules"
        told = client.change("DELETE", kind, name)
    _warn_of_routers(told)
    _print_done({**told, "name": name}, "is removed", as_json)


def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The alias.", callback=text_option)],
    meaning: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE[=SHARE]...",
            help="One module, or shares: math-v1=0.9 math-v2=0.1.",
            callback=text_option,
        ),
    ],
    classifier: Annotated[
        Path | None,
        typer.Option("--classifier", help="Directory of a classifier that chooses; MODULE is the default."),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            "--min-probability",
            help="How likely its choice must be, else the default answers.",
            callback=number_option,
        ),
    ] = None,
    url: given.Url = None,
    api_key: given.ApiKey = None,
    admin_key: AdminKey = None,
    cluster: cluster_options.Address = None,
    deployment: cluster_options.Deployment = None,
    as_json: AsJson = False,
) -> None:
    """Let a name mean one decode module, or choose of several."""
    body = _with_classifier(_read_meaning(meaning), classifier, min_probability)
    with _client(url, api_key, admin_key, cluster, deployment) as client:
        told = client.change("PUT", "aliases", name, body)
    _warn_of_routers(told)
    if as_json:
        put_json(told)
    else:
        put(f"{name} = {json.dumps(told['aliases'][name])}")


def _client(
    url: str | None,
    api_key: str | None,
    admin_key: str | None,
    cluster: str | None = None,
    deployment: str | None = None,
) -> "ChangeClient":
    from prefillshare.serving.change_client import ChangeClient

    if cluster and not url:
        url, own_api_key, own_admin_key = _find_on_cluster(cluster, deployment, has_key=admin_key is not None)
        return ChangeClient(url, admin_key=admin_key or own_admin_key, api_key=api_key or own_api_key)
    return ChangeClient(given.server_url(url, deployment), admin_key=admin_key, api_key=api_key)


def _find_on_cluster(address: str, deployment: str | None, *, has_key: bool) -> tuple[str, str | None, str | None]:
    """Return the address of a router on a cluster, and the deployment's keys: what its files say on this node.

    Of somebody who has the admin key no files are wanted: another machine than a node has none.
    """
    url, plan = cluster_options.find_router(address, deployment)
    if has_key:
        return url, None, None
    from prefillshare.cluster.secrets import read_admin_key, read_api_key

    return url, read_api_key(plan.cluster), read_admin_key(plan.cluster, plan.config.name)


def _print_done(told: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        put_json(told)
        return
    for warning in told.get("warnings", ()):
        warn(warning)
    seconds = f" after {told['seconds']:.1f} s" if "seconds" in told else ""
    put(f"{told['name']} {what}{seconds}")


def _warn_of_routers(told: dict[str, Any]) -> None:
    """Of several routers the one that was asked tells the others."""
    for url, reason in told.get("routers", {}).items():
        if reason is not None:
            warn(f"router {url}: {reason}")


def _with_classifier(body: dict[str, Any], directory: Path | None, min_probability: float | None) -> dict[str, Any]:
    from prefillshare.errors import ConfigError
    from prefillshare.places import expand_home

    if directory is None and min_probability is not None:
        raise ConfigError("--min-probability stands without --classifier: name the directory of one, or leave it out")
    if directory is None:
        return body
    if min_probability is not None and not 0 <= min_probability <= 1:
        raise ConfigError(f"--min-probability is {min_probability}: it must lie between 0 and 1")
    if "module" not in body:
        raise ConfigError("shares stand beside --classifier: name one module, the default where it is not sure")
    return {
        "default": body["module"],
        "classifier": str(expand_home(directory).resolve()),
        "min_probability": min_probability or 0.0,
    }


def _read_meaning(words: list[str]) -> dict[str, Any]:
    from prefillshare.errors import ConfigError

    if len(words) == 1 and "=" not in words[0]:
        return {"module": words[0]}
    weights = {}
    for word in words:
        module, _, share = word.rpartition("=")
        if module in weights:
            raise ConfigError(f"{module!r} has two shares: add them up")
        try:
            weights[module] = float(share)
        except ValueError:
            module = ""
        if not module or not math.isfinite(weights[module]):
            raise ConfigError(f"{word!r} is no share: write MODULE=SHARE, such as math-v1=0.9, or one module alone")
    return {"weights": weights}

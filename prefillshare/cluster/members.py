"""The actors of a Ray cluster that are members of deployments: which there are, and what they answer."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from prefillshare.cluster.bounded import CALL_S, RAY

NAMESPACE = "prefillshare:"
"""Begins the Ray namespace of each deployment, so that its actors are found without knowing of it."""


def list_deployments() -> dict[str, list[str]]:
    """Return the deployments on the cluster with the names of their members.

    Raises: ServerError when the cluster does not answer.
    """
    found: dict[str, list[str]] = {}
    for actor in RAY.run("listing deployments", lambda: ray.util.list_named_actors(all_namespaces=True)):
        if actor["namespace"].startswith(NAMESPACE):
            found.setdefault(actor["namespace"].removeprefix(NAMESPACE), []).append(actor["name"])
    return {name: sorted(found[name]) for name in sorted(found)}


def ask(deployment: str, names: Iterable[str], method: str, *arguments: object, timeout_s: float) -> Mapping[str, Any]:
    """Ask members all at once; return what each answered, and its exception where it failed.

    One that has not answered in time is left out.
    Raises: ServerError when the cluster does not answer.
    """
    return RAY.run(
        f"asking {deployment}",
        lambda: _ask(deployment, names, method, arguments, timeout_s),
        timeout_s=timeout_s + CALL_S,
    )


def _ask(
    deployment: str, names: Iterable[str], method: str, arguments: tuple[object, ...], timeout_s: float
) -> Mapping[str, Any]:
    asked = {}
    for name in names:
        with contextlib.suppress(ValueError):  # it has gone meanwhile
            actor = ray.get_actor(name, namespace=NAMESPACE + deployment)
            asked[getattr(actor, method).remote(*arguments)] = name
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
    return {asked[reference]: _result(reference) for reference in ready}


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error

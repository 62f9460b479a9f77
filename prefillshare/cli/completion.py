"""What a shell completes beside commands, options and files: names of what runs here, and keys of a deployment file."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefillshare.serving.run.record import DeploymentRecord


def complete_model(incomplete: str) -> list[str]:
    """Names for "model" of all deployments that run here."""
    return _begun(incomplete, (name for record in _running() for name in record.models))


def complete_deployment(incomplete: str) -> list[str]:
    """Names of the deployments that run here."""
    return _begun(incomplete, (record.name for record in _running()))


def complete_process(incomplete: str) -> list[str]:
    """Names of processes of the deployments that run here."""
    return _begun(incomplete, _process_names())


def complete_url(incomplete: str) -> list[str]:
    """Addresses of the deployments that run here."""
    return _begun(incomplete, (record.url for record in _running()))


def complete_key(incomplete: str) -> list[str]:
    """Keys of a deployment file; NAME stands for that of a module."""
    from prefillshare.config import Deployment
    from prefillshare.config.overrides import list_keys

    return _begun(incomplete, (f"{key}=" for key in list_keys(Deployment)))


def _process_names() -> Iterator[str]:
    from prefillshare.cli.logs_of_machine import log_files

    for record in _running():
        yield from log_files([record])


def _running() -> "list[DeploymentRecord]":
    from prefillshare.errors import ConfigError
    from prefillshare.serving.run.record import read_records

    try:
        return read_records()
    except ConfigError:  # no place for records: nothing to complete, and nobody to tell
        return []


def _begun(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]

"""The modules of a deployment file."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from prefillshare.bench.families.base import Family, Listener
from prefillshare.config import load_deployment
from prefillshare.config.schema import Deployment
from prefillshare.errors import BenchError


def given_family(file: Path) -> Family:
    """The adapters of the colocated deployment in `file`, its engine settings for every system.

    Raises: ConfigError when it cannot be read, BenchError when it is disaggregated.
    """
    deployment = load_deployment(file)
    if deployment.topology != "colocated":
        raise BenchError(
            f'{file} has topology = "disaggregated": give a file with topology = "colocated"; shared-pd and vanilla-pd '
            "serve its adapters merged into full weights"
        )
    return Family(
        name=deployment.name, deployment=partial(_first_modules, deployment), max_modules=len(deployment.decode)
    )


def _first_modules(deployment: Deployment, num_modules: int, tell: Listener) -> Deployment:
    return replace(deployment, decode=deployment.decode[:num_modules])

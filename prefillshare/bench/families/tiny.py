"""The tiny family that comes along; its per-step overhead hides much of what sharing saves."""

from prefillshare.bench.families.base import Family, Listener, make_deployment
from prefillshare.config.schema import Deployment, Engine
from prefillshare.serving.embedded import embedded_deployment

_ADAPTERS = ("math", "tool", "code")


def tiny_family() -> Family:
    """math, tool and code; from the fourth module on, the same adapters under further names."""
    return Family(name="tiny", deployment=_deployment)


def _deployment(num_modules: int, tell: Listener) -> Deployment:
    folder = embedded_deployment().parent / "tiny"
    paths = [folder / _ADAPTERS[number % len(_ADAPTERS)] for number in range(num_modules)]
    return make_deployment("tiny", folder / "base", paths, Engine())

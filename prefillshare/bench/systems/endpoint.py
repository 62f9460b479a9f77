"""Anything OpenAI-compatible that runs already, given as NAME=URL or NAME=URL#MODEL,MODEL."""

import contextlib
from collections.abc import Iterator

from prefillshare.bench.systems.base import Running, Setup, Target
from prefillshare.errors import BenchError


class Endpoint:
    """A server that is neither started nor stopped, and whose cache is not emptied between runs."""

    shares: bool | None = None

    def __init__(self, name: str, url: str, models: tuple[str, ...], api_key: str | None) -> None:
        self.name = name
        self.url = url.rstrip("/").removesuffix("/v1")
        self._models = models
        self._api_key = api_key

    @contextlib.contextmanager
    def start(self, setup: Setup) -> Iterator[Running]:
        """See `System`. The modules of the workload stand for the endpoint's models, in their order."""
        names = [module.name for module in setup.deployment.decode]
        models = self._models or tuple(names)
        targets = {
            name: Target(url=self.url, dialect="openai", model=models[number % len(models)], api_key=self._api_key)
            for number, name in enumerate(names)
        }
        yield Running(targets=targets)


def parse_endpoint(text: str, api_key: str | None = None) -> Endpoint:
    """The endpoint that `text` describes.

    Raises: BenchError.
    """
    name, _, rest = text.partition("=")
    url, _, models = rest.partition("#")
    if not name or not url.startswith(("http://", "https://")):
        raise BenchError(
            f"endpoint {text!r} is not NAME=URL: write one such as other=http://127.0.0.1:8000, or with model names "
            "other=http://127.0.0.1:8000#math,code"
        )
    return Endpoint(name, url, tuple(model for model in models.split(",") if model), api_key)

"""Which extra of the package brings a library, and what is said when it is not installed.

`pip install prefillshare` is enough to ask a server elsewhere; what serves, trains, measures or draws is an extra.
"""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal

from prefillshare.errors import ConfigError

Extra = Literal["engine", "train", "bench", "dashboard", "cluster"]

LIBRARIES: dict[Extra, tuple[str, ...]] = {
    "engine": (
        "sglang",
        "aiohappyeyeballs",
        "aiohttp",
        "fastapi",
        "httptools",
        "huggingface_hub",
        "jinja2",
        "jsonschema",
        "jsonschema_rs",
        "llvmlite",
        "msgspec",
        "nixl",
        "numba",
        "numpy",
        "opentelemetry",
        "peft",
        "prometheus_client",
        "psutil",
        "pyarrow",
        "pydantic",
        "re2",
        "requests",
        "safetensors",
        "setproctitle",
        "starlette",
        "tokenizers",
        "torch",
        "transformers",
        "triton",
        "uvicorn",
        "uvloop",
        "xgrammar",
        "xxhash",
        "yarl",
        "zmq",
    ),
    "train": ("accelerate", "datasets", "tensorboard"),
    "bench": ("matplotlib",),
    "dashboard": ("textual", "textual_plotext"),
    "cluster": ("grpc", "ray"),
}
"""What is imported from an extra, by the name that an `import` has; some come with SGLang's own dependencies."""
_WITH_THE_ENGINE: tuple[Extra, ...] = ("train", "bench", "cluster")


def require(extra: Extra) -> None:
    """Raises: ConfigError when a library of the extra is not installed."""
    needed = LIBRARIES[extra] + (LIBRARIES["engine"] if extra in _WITH_THE_ENGINE else ())
    for library in needed:
        if find_spec(library) is None:
            raise _missing(library, extra)


@contextlib.contextmanager
def naming_the_missing_extra() -> Iterator[None]:
    """Raises: ConfigError for an import that failed because an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        for extra, libraries in LIBRARIES.items():
            if library in libraries:
                raise _missing(library, extra) from error
        raise


def _missing(library: str, extra: Extra) -> ConfigError:
    return ConfigError(f"{library} is not installed: pip install 'prefillshare[{extra}]'")

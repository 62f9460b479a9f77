"""The tiny family with a classifier behind the name `auto`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from prefillshare.serving.launch import running_deployment

MODELS = Path(__file__).parents[2] / "models"
FILES = {"colocated": "tiny-agents.toml", "disaggregated": "tiny-agents-pd.toml"}


@contextmanager
def serving_auto(classifier: Path, topology: str = "colocated") -> Iterator[httpx.Client]:
    """Serve it on this machine; give a client of it."""
    with TemporaryDirectory() as folder:
        text = (
            (MODELS / FILES[topology]).read_text(encoding="utf-8").replace('path = "tiny/', f'path = "{MODELS}/tiny/')
        )
        file = Path(folder) / "auto.toml"
        file.write_text(f'{text}\n[aliases.auto]\ndefault = "math"\nclassifier = "{classifier}"\n', encoding="utf-8")
        with running_deployment(file) as running, httpx.Client(base_url=running.url, timeout=120) as http:
            yield http

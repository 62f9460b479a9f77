"""The deployment file that comes along: beside the sources, or inside the installed package."""

from pathlib import Path

import prefillshare
from prefillshare.errors import ConfigError

DEFAULT_FILE = "tiny-agents.toml"


def embedded_deployment() -> Path:
    """Return the deployment file of the tiny family.

    Raises: ConfigError when it was not installed.
    """
    package = Path(prefillshare.__file__).parent
    for directory in (package / "_models", package.parent / "models"):
        if (directory / DEFAULT_FILE).is_file():
            return directory / DEFAULT_FILE
    raise ConfigError(f"{DEFAULT_FILE} was not installed along: name a deployment file")

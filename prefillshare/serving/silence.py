"""What to say when nobody listens at an address: a deployment of this user's may be on its way there."""

import contextlib

from prefillshare.direct import launch_line
from prefillshare.errors import ConfigError, ServerError
from prefillshare.serving.run.record import DeploymentRecord, read_records


def nobody_answers(url: str) -> ServerError:
    """Return the error that tells why no server answers at `url`, and what to do."""
    records: list[DeploymentRecord] = []
    with contextlib.suppress(ConfigError):  # no place for records: nothing more is known
        records = [record for record in read_records() if record.url == url]
    for record in records:
        if record.state == "starting":
            return ServerError(f"{record.name} at {url} is still starting: try again when `prefillshare ps` shows it")
        waiting = [process.name for process in record.processes if process.state == "restarting"]
        if waiting:
            return ServerError(
                f"{record.name} at {url} starts {', '.join(waiting)} again after a failure: try again in a moment; "
                "`prefillshare ps` shows how it stands"
            )
    return ServerError(f"no server answers at {url}: start one with `{launch_line(url)}`")

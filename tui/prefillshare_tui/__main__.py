"""`python -m prefillshare_tui`: the dashboard by itself, as `prefillshare launch --tui` and `textual serve` start it.

Exit codes: 0 left, 10 left and the launched deployment is to stop, 5 the address cannot be used, 2 no terminal.
"""

import argparse
import os
import sys

from prefillshare_tui.app import Dashboard
from prefillshare_tui.client import DEFAULT_URL, StateClient
from prefillshare_tui.errors import FeedError

EXIT_STOP = 10
EXIT_ADDRESS = 5
EXIT_USAGE = 2


def main() -> int:
    """Run the dashboard and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m prefillshare_tui", description="The dashboard of PrefillShare.")
    parser.add_argument("--url", default=os.environ.get("PREFILLSHARE_URL", DEFAULT_URL), help="address of the server")
    # No --api-key: it would be seen in the list of processes.
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between snapshots")
    parser.add_argument("--launched", action="store_true", help="ask about stopping the deployment when left")
    options = parser.parse_args()
    if not _has_screen():
        print("error: the dashboard needs a terminal: `prefillshare top --once` prints one look", file=sys.stderr)
        return EXIT_USAGE
    try:
        client = StateClient(options.url, os.environ.get("PREFILLSHARE_API_KEY"))
    except FeedError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ADDRESS
    leaving = Dashboard(client, interval_s=options.interval, is_launched=options.launched).run()
    return EXIT_STOP if leaving == "stop" else 0


def _has_screen() -> bool:
    """Whether there is a terminal, or a driver in its place, as `textual serve` has one."""
    return "TEXTUAL_DRIVER" in os.environ or (sys.stdin.isatty() and sys.stdout.isatty())


if __name__ == "__main__":
    sys.exit(main())

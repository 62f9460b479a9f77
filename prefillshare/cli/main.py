"""Where the command `prefillshare` begins: its imports take a moment, in which Ctrl-C is no fault either."""

import sys


def main() -> None:
    """Run the command line and exit with the code that fits what happened."""
    try:
        from prefillshare.cli.streams import open_closed_streams

        open_closed_streams()
        from prefillshare.cli.app import main as run
    except KeyboardInterrupt:
        from prefillshare.cli.errors import EXIT_INTERRUPTED, say_interrupted

        say_interrupted()
        sys.exit(EXIT_INTERRUPTED)
    run()

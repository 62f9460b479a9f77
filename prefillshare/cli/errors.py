"""One map from errors to exit codes; a traceback only on request."""

import os
import sys
import traceback
from collections.abc import Callable

from prefillshare.errors import (
    BenchError,
    ConfigError,
    EvaluationError,
    LaunchError,
    ModuleError,
    PrefillShareError,
    ServerError,
    SimulationError,
    StoreError,
    TrainingError,
)
from prefillshare.extras import naming_the_missing_extra

# 2 is also what a wrong option gives.
EXIT_CODES: tuple[tuple[type[PrefillShareError], int], ...] = (
    (ConfigError, 2),
    (ModuleError, 3),
    (LaunchError, 4),
    (ServerError, 5),
    (TrainingError, 6),
    (EvaluationError, 7),
    (BenchError, 8),
    (StoreError, 9),
    (SimulationError, 10),
    (PrefillShareError, 1),
)
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "PREFILLSHARE_DEBUG"


def run_reporting_errors(command: Callable[[], object]) -> int:
    """Run `command` and return the exit code of the process.

    Effects: an error is said in one line on stderr; with --debug its traceback comes first.
    """
    try:
        with naming_the_missing_extra():
            command()
    except PrefillShareError as error:
        _show_traceback()
        print(f"error: {error}", file=sys.stderr)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        say_interrupted()
        return EXIT_INTERRUPTED
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            say_interrupted()
        raise
    except BrokenPipeError:
        # The reader of a pipe left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        _show_traceback()
        hint = "" if is_debug() else ": run it again with `prefillshare --debug` and report the traceback"
        print(f"internal error: {type(error).__name__}: {error}{hint}", file=sys.stderr)
        return EXIT_INTERNAL
    return 0


def say_interrupted() -> None:
    """Say on stderr that somebody pressed Ctrl-C."""
    print("interrupted", file=sys.stderr)


def is_debug() -> bool:
    """Return whether tracebacks were asked for."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _show_traceback() -> None:
    if is_debug():
        traceback.print_exc()

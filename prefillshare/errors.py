"""Every error that PrefillShare raises on purpose.

A message is one sentence for the person at the keyboard: what is wrong, with the values, and the fix.
The command line maps each class to an exit code (`prefillshare.cli.errors`).
"""


class PrefillShareError(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(PrefillShareError):
    """A deployment file or a command-line value cannot be used."""


class ModuleError(PrefillShareError):
    """A prefill or decode module on disk is missing, broken, or does not fit its deployment."""


class LaunchError(PrefillShareError):
    """The engine could not be started, or died."""


class ServerError(PrefillShareError):
    """A running server could not be reached, or refused a request."""


class TrainingError(PrefillShareError):
    """A training run cannot start or continue."""


class AnswerError(PrefillShareError):
    """What a server answered as if all were well is not what it was asked for."""


class EvaluationError(PrefillShareError):
    """An evaluation cannot run, or its sandbox failed."""


class BenchError(PrefillShareError):
    """A measurement cannot be made, or continued, as asked."""


class SimulationError(PrefillShareError):
    """A deployment cannot be simulated as asked."""


class StoreError(PrefillShareError):
    """A store of KV pages cannot be opened, or holds damaged pages."""


def short_repr(value: object, length: int = 60) -> str:
    """A value as Python writes it, cut to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough to stand inside of a sentence."""
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__

"""The worker model: how long the steps of an engine take, how fast KV moves and how much of it there is room for.

a prefill step    prefill.step_s + prefill.token_s * tokens + prefill.pair_s * (token, token before it) pairs,
                  and prefill.prompt_s for each prompt that begins
a decode step     decode.step_s + decode.sequence_s * sequences + decode.context_token_s * tokens of their KV
a sequence        decode.join_s once, for which its batch stands still, and decode.beside_s of a core, for which not
a hand-off        handoff.latency_s + tokens * handoff.kv_token_bytes / handoff.bytes_per_s
a call            overhead_s beside all of these: HTTP, tokenizer, router

On a machine without GPUs ([machine] has cores), all of this but waiting takes cores, which everybody shares.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from prefillshare.config.tables import build
from prefillshare.config.toml import NotTomlError, read_toml
from prefillshare.errors import ConfigError, SimulationError


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillModel:
    """A prefill worker."""

    step_s: float
    """Fixed time of a step."""
    token_s: float
    """Time per token that is computed."""
    pair_s: float = 0.0
    """Time of attention per pair of a computed token and one before it."""
    prompt_s: float = 0.0
    """Time per prompt, however many of its tokens are computed."""
    chunk_tokens: int = 8192
    """Most tokens of one step."""
    pool_tokens: int = 0
    """Tokens of KV that it has room for; 0 is without limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeModel:
    """A decode worker."""

    step_s: float
    """Fixed time of a step: reading the weights."""
    sequence_s: float = 0.0
    """Time per sequence in the batch."""
    context_token_s: float = 0.0
    """Time per token of KV that the batch reads."""
    join_s: float = 0.0
    """Time that the batch stands still for each sequence that joins it."""
    beside_s: float = 0.0
    """What a sequence takes of a core beside steps and joining; nobody waits for it. Counts where cores are shared."""
    max_running: int = 256
    """Most sequences that are decoded together."""
    pool_tokens: int = 0
    """Tokens of KV that it has room for; 0 is without limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffModel:
    """What moves KV from prefill to decode workers; prompts that move at a time share the links of both ends."""

    bytes_per_s: float
    """Speed of one worker's link, which is that of a prompt that moves alone."""
    kv_token_bytes: int
    """KV of one token."""
    latency_s: float = 0.0
    """Fixed time of a hand-off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineModel:
    """The cores of a machine without GPUs: all workers run on them, and so does what surrounds them."""

    cores: int = 0
    """Cores that everybody shares; 0: each worker has a processor of its own, and what follows does not count."""
    call_s: float = 0.0
    """What a call takes of a core outside of engines. Up to overhead_s of it, the call waits for."""
    send_s: float = 0.0
    """What it takes to look what an engine has left and to send that, however much it is."""
    piece_s: float = 0.0
    """What each piece of it takes: one token of an answer, or several where cores are short."""
    wait_share: float = 0.0
    """Share of a core that a decode worker takes while it waits for KV and has nothing else to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerModel:
    """One kind of machine with one model on it."""

    name: str
    """For people."""
    source: str
    """Where the numbers come from, and which of them are estimates."""
    prefill: PrefillModel
    """Prefill workers."""
    decode: DecodeModel
    """Decode workers."""
    handoff: HandoffModel
    """Between them."""
    overhead_s: float = 0.0
    """Time of a call beside engines and hand-off."""
    page_size: int = 1
    """Tokens per page; prefixes are found and kept in whole pages."""
    machine: MachineModel = MachineModel()
    """Where all workers run, if that is one machine without GPUs."""

    def __post_init__(self) -> None:
        for name, table in (
            ("prefill", self.prefill),
            ("decode", self.decode),
            ("handoff", self.handoff),
            ("machine", self.machine),
            ("", self),
        ):
            for item in dataclasses.fields(table):
                value = getattr(table, item.name)
                if isinstance(value, int | float) and not 0 <= value < float("inf"):
                    raise ConfigError(
                        f"{item.name}{f' under [{name}]' if name else ''} is {value}: it must be 0 or more"
                    )
        for name in ("bytes_per_s", "kv_token_bytes"):
            if not getattr(self.handoff, name):
                raise ConfigError(f"{name} under [handoff] is 0: it must be more")
        for name, number in (
            ("page_size", self.page_size),
            ("chunk_tokens under [prefill]", self.prefill.chunk_tokens),
            ("max_running under [decode]", self.decode.max_running),
        ):
            if number < 1:
                raise ConfigError(f"{name} is {number}: it must be at least 1")
        if self.machine.wait_share > 1:
            raise ConfigError(f"wait_share under [machine] is {self.machine.wait_share}: it must be 1 at most")
        if self.prefill.step_s + self.prefill.token_s <= 0 or self.decode.step_s + self.decode.sequence_s <= 0:
            raise ConfigError("a step takes no time at all: give step_s under [prefill] and [decode]")


def read_model(file: Path, known: str = "") -> WorkerModel:
    """Return the model in a TOML file; `known` names the models that need none.

    Raises: SimulationError when there is no such file, ConfigError for one that cannot be used.
    """
    try:
        table = read_toml(file)
    except OSError as error:
        raise SimulationError(
            f"there is no worker model {str(file)!r} ({error.strerror or error}): choose one of {known}, or name a "
            "file that `prefillshare simulate FILE --fit URL --save-model MODEL.toml` wrote"
        ) from None
    except NotTomlError as error:
        raise ConfigError(f"{file} is not TOML ({error}): correct it, or fit the model anew") from None
    return build(WorkerModel, table, str(file))


def write_model(model: WorkerModel, file: Path) -> None:
    """Write `model` as TOML.

    Raises: SimulationError when the file cannot be written.
    """
    lines, tables = [], []
    for item in dataclasses.fields(model):
        value = getattr(model, item.name)
        if dataclasses.is_dataclass(value):
            tables += ["", f"[{item.name}]", *_lines(value)]
        else:
            lines.append(f"{item.name} = {_literal(value)}")
    try:
        file.write_text("\n".join([*lines, *tables, ""]), encoding="utf-8")
    except OSError as error:
        raise SimulationError(
            f"{file} cannot be written ({error.strerror or error}): choose another --save-model"
        ) from None


def _lines(table: object) -> list[str]:
    return [f"{item.name} = {_literal(getattr(table, item.name))}" for item in dataclasses.fields(table)]  # type: ignore[arg-type]


def _literal(value: str | int | float) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)

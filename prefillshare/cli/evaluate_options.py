"""The options of `prefillshare eval`: one type per option, and all of them as they were given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.text import number_option, text_option
from prefillshare.errors import EvaluationError

SuiteNames = Annotated[
    list[str] | None,
    typer.Argument(help="gsm8k, gsm-plus, humaneval, humaneval+, bfcl-simple, bfcl-multiple, or a tiny suite."),
]
ModelName = Annotated[str | None, typer.Option(help="Name of the model to ask.", callback=text_option)]
WeightsFile = Annotated[
    Path | None, typer.Option(help="Deployment file: decode its modules here instead of asking a server.")
]
SharingRatio = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="With --weights: part of each prompt whose KV is the prefill module's; without it, as the file serves it.",
        callback=number_option,
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Directory of the suites' files.", envvar="PREFILLSHARE_DATA")]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask only the first problems of each suite.")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Questions asked at the same time.")]
AllowCode = Annotated[
    bool, typer.Option("--allow-code-execution", help="Run what the model wrote, in a process with limits.")
]
OfferTools = Annotated[
    bool, typer.Option("--tools", help="bfcl: offer the functions through the API instead of in the prompt.")
]
Harness = Annotated[
    str | None, typer.Option(help="lm-eval: let that harness prompt and judge (gsm8k), as published figures do.")
]
FewShot = Annotated[int | None, typer.Option(min=0, help="With --harness: worked examples before each question.")]
ResultFile = Annotated[
    Path | None, typer.Option("--out", "--output", help="File for every question and answer, as JSON.")
]
ComparedFiles = Annotated[
    tuple[Path, Path] | None, typer.Option(help="Compare two files of --out instead, question by question.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What is asked, and of what; options that contradict each other are refused."""

    suites: tuple[str, ...]
    """Names of the suites."""
    model: str | None
    """Name of the model, or of the module in `weights`."""
    api_key: str | None
    """Key of the server."""
    weights: Path | None
    """Deployment file whose modules are decoded in process; None asks a server."""
    changes: tuple[str, ...] = ()
    """Keys of it that are set in its place."""
    sharing_ratio: float | None
    """Part of each prompt whose KV is the prefill module's; None, and from a server, as the deployment file says."""
    data: Path | None
    """Directory of the suites' files."""
    limit: int | None
    """Most problems of each suite."""
    concurrency: int
    """Questions asked at the same time."""
    may_run_code: bool
    """Whether suites may run what the model wrote."""
    offers_tools: bool
    """Whether functions go through the API."""
    harness: str | None
    """Who prompts and judges, if not we."""
    num_examples: int | None
    """Worked examples before each question of a harness."""
    out: Path | None
    """File for every question and answer."""

    def __post_init__(self) -> None:
        if not self.suites or self.model is None:
            missing = "suite" if not self.suites else "model"
            raise EvaluationError(f"no {missing} is given: prefillshare eval gsm8k --model NAME --url URL")
        self._check_out()
        if self.weights is None and self.sharing_ratio is not None:
            raise EvaluationError(
                f"--sharing-ratio {self.sharing_ratio} is for --weights: a server shares as its deployment file says"
            )
        if self.weights is None and self.changes:
            raise EvaluationError(
                f"--set {self.changes[0]} is for the file of --weights: a server was started as it is"
            )
        self._check_harness()

    def _check_out(self) -> None:
        if self.out is not None and not self.out.parent.is_dir():
            raise EvaluationError(f"--out {self.out} cannot be written: create {self.out.parent} first")
        if self.out is not None and self.out.exists():
            raise EvaluationError(f"--out {self.out} exists: give another name, or remove it first")

    def _check_harness(self) -> None:
        if self.harness not in (None, "lm-eval"):
            raise EvaluationError(f"there is no harness {self.harness!r}: give --harness lm-eval, or leave it out")
        if self.harness is None and self.num_examples is not None:
            raise EvaluationError(
                f"--few-shot {self.num_examples} is for --harness lm-eval: the other prompts hold no examples"
            )
        if self.harness is not None and self.weights is not None:
            raise EvaluationError("--harness lm-eval asks a server: leave --weights out, or --harness")

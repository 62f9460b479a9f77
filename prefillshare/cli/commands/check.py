"""`prefillshare check`: what sharing would cost an adapter from elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli import adapter_options as given

LITTLE = 0.005
"""Part of an answer's tokens that may well be chance."""
LEARNED = 0.5
"""Part of its tokens that an adapter has as first choice, at least, on data that it has learned."""


def check(
    adapter: given.AdapterDirectory,
    data: given.DataName,
    base: given.BaseName = None,
    rows: Annotated[int, typer.Option(min=1, help="Use only the first rows.")] = 100,
    messages: given.MessagesColumn = None,
    prompt: given.PromptColumn = None,
    answer: given.AnswerColumn = None,
    max_tokens: given.MaxTokens = 1024,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure what sharing would cost an adapter from elsewhere.

    Its answers' loss over its own KV, and over the prefill module's.
    """
    from prefillshare.extras import require

    require("train")
    from dataclasses import asdict

    from prefillshare.cli.output import put_json, put_table, say
    from prefillshare.training.finetune.check import score_adapter
    from prefillshare.training.finetune.models import locate_base
    from prefillshare.training.progress import make_reporter

    chosen = given.data_of(data, messages=messages, prompt=prompt, answer=answer, max_rows=rows)
    base_path = locate_base(given.base_of(adapter, base))
    with make_reporter() as reporter:
        own, shared = score_adapter(adapter, base_path, chosen, max_tokens=max_tokens, reporter=reporter)
    if json:
        put_json([asdict(score) for score in (own, shared)])
        return
    table = [
        (name, f"{score.loss:.4f}", f"{score.share_right:.1%}") for name, score in (("own", own), ("shared", shared))
    ]
    put_table(("KV of prompts", "loss per token of answers", "tokens that are its first choice"), table)
    if own.share_right < LEARNED:
        say("over its own KV, too, it has few of them: is this the data that it learned, over this base?")
    options = {"--data": data, "--base": base, "--messages": messages, "--prompt": prompt, "--answer": answer}
    say(_verdict(own.share_right - shared.share_right, _adapt_command(adapter, options)))


def _adapt_command(adapter: Path, options: dict[str, str | None]) -> str:
    import shlex

    given_ones = [part for name, value in options.items() if value is not None for part in (name, value)]
    return shlex.join(["prefillshare", "adapt", str(adapter), *given_ones])


def _verdict(lost: float, command: str) -> str:
    lost_of_100 = f"shared, it loses {100 * lost:.1f} of 100 tokens of its answers"
    if lost < LITTLE:
        return f"{lost_of_100 if lost > 0 else 'shared, it loses nothing'} on this data; its answers say more than that"
    return f"{lost_of_100}: serve it with share = false, or train it on with {command}"

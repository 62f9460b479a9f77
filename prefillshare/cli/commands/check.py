"""`prefillshare check`: what sharing would cost an adapter from elsewhere."""

from typing import Annotated

import typer

from prefillshare.cli import adapter_options as given


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
    """Measure what sharing would cost an adapter: its answers over its own KV, and over the prefill module's."""
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
    lost = 100 * (own.share_right - shared.share_right)
    say(
        f"shared, {lost:.1f} of 100 tokens of answers are lost: serve it with share = false, or train it on with "
        f"prefillshare adapt {adapter} --data {data}"
        if lost > 0
        else "sharing costs it nothing on this data; answers of its own may differ more than its next tokens do"
    )

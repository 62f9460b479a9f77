"""`prefillshare verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli.config_options import Changes
from prefillshare.cli.server_options import ApiKey, Url

if TYPE_CHECKING:
    from prefillshare.bench.reference import ServedFidelity


def verify(
    file: Annotated[
        Path | None, typer.Argument(help="Deployment file that the server was started with; the tiny family's if none.")
    ] = None,
    changes: Changes = None,
    url: Url = None,
    api_key: ApiKey = None,
    prompts: Annotated[int, typer.Option(min=1, help="Made-up prompts, each asked of every module.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 16,
    max_prompt_tokens: Annotated[int, typer.Option(min=2, help="Length of the longest prompt.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare a deployment's greedy answers with plain transformers.

    With peft, where a module is an adapter. Loads the models a second time, here. In float32 all answers must be equal,
    else the exit code is 8; in bfloat16 near ties fall differently.
    """
    from prefillshare.bench.verify import Sample
    from prefillshare.bench.verify import verify as compare
    from prefillshare.cli.output import put_json, put_table, say
    from prefillshare.cli.server_options import server_url
    from prefillshare.config import load_deployment
    from prefillshare.errors import BenchError
    from prefillshare.serving.embedded import embedded_deployment

    deployment = load_deployment(file or embedded_deployment(), changes or ())
    address = server_url(url)
    say(f"asking {address}: {prompts} prompts, {len(deployment.decode)} modules; then the reference")
    sample = Sample(num_prompts=prompts, num_tokens=tokens, max_prompt_tokens=max_prompt_tokens, seed=seed)
    found = compare(deployment, address, api_key, sample)
    if as_json:
        put_json(found)
    else:
        header = ["module", "equal to the reference", "tokens equal up to the first difference"]
        put_table(header, [_row(name, figures) for name, figures in found.items()])
    wrong = {
        name: figures["compared"] - figures["exact"]
        for name, figures in found.items()
        if figures["exact"] < figures["compared"]
    }
    if wrong and all(figures["dtype"] == "float32" for figures in found.values()):
        listed = ", ".join(f"{number} of {name}" for name, number in wrong.items())
        raise BenchError(f"answers differ from the reference ({listed}): does {address} serve this deployment file?")


def _row(name: str, figures: "ServedFidelity") -> list[str]:
    agreed = figures["token_agreement"]
    return [name, f"{figures['exact']} of {figures['compared']}", "-" if agreed is None else f"{agreed:.4f}"]

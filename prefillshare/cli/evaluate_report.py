"""The results of `prefillshare eval`: printed, stored, and two of them compared."""

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefillshare.cli.evaluate_options import EvaluateOptions
from prefillshare.cli.output import put_json, put_table, say
from prefillshare.evaluation.compare import compare_files
from prefillshare.evaluation.driver import Score


def show_scores(scores: Sequence[Score], *, as_json: bool) -> None:
    """Print accuracy, counts and intervals."""
    if as_json:
        results = [score.as_dict() for score in scores]
        put_json([{key: result[key] for key in result if key != "samples"} for result in results])
        return
    rows = [
        (
            score.suite,
            score.model,
            f"{score.accuracy:.1%}",
            f"{score.num_right}/{len(score.samples)}",
            "{:.1%} to {:.1%}".format(*score.interval),
        )
        for score in scores
    ]
    put_table(("suite", "model", "accuracy", "right", "95 % interval"), rows)


def store_scores(scores: Sequence[Score], options: EvaluateOptions, url: str, out: Path) -> None:
    """Write every question and answer, and where the answers came from, to `out`."""
    origin = {"url": url} if options.weights is None else _weights_origin(options)
    content = {
        "model": options.model,
        **origin,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": [score.as_dict() for score in scores],
    }
    out.write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
    )
    say(f"every answer: {out}; compare it with: prefillshare eval --compare {shlex.quote(str(out))} OTHER")


def _weights_origin(options: EvaluateOptions) -> dict[str, str | float | None]:
    return {"weights": str(options.weights), "sharing_ratio": options.sharing_ratio}


def show_comparison(first: Path, second: Path, *, as_json: bool) -> None:
    """Print what two stored results say of the questions that they share."""
    found = compare_files(first, second)
    if as_json:
        put_json([comparison.as_dict() for comparison in found])
        return
    rows = [
        (
            comparison.suite,
            *(f"{right / comparison.num_questions:.1%}" for right in comparison.num_right),
            f"{comparison.only_first} : {comparison.only_second}",
            f"{comparison.p_value:.3g}",
        )
        for comparison in found
    ]
    put_table(("suite", str(first), str(second), "only one right", "p (McNemar, exact)"), rows)

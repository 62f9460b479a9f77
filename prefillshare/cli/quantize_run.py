"""What `prefillshare quantize` measures and prints: accuracy on a suite, and the report as a table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefillshare.cli.output import put, put_json, put_table
from prefillshare.cli.progress import show_count
from prefillshare.config import DecodeModule, Deployment, Engine, PrefillModule
from prefillshare.config.quantisation import Quantisation
from prefillshare.modules.manifest import ModuleManifest

_LABELS = {"full": "full weights", "k-means": "k-means alone", "module": "the module"}


def make_judge(
    wanted: Quantisation, data: Path | None, *, may_run_code: bool
) -> Callable[[Path, Path, ModuleManifest], dict[str, Any]] | None:
    """Return what measures a module on the file's suite; None when it names none.

    Raises: EvaluationError when the suite is not known, lacks its files or runs code without permission.
    """
    if wanted.report.suite is None:
        return None
    from prefillshare.evaluation.suites.registry import load

    suite = load(wanted.report.suite, directory=data, limit=wanted.report.problems, may_run_code=may_run_code)

    def judge(base: Path, module: Path, manifest: ModuleManifest) -> dict[str, Any]:
        from prefillshare.evaluation.weights import WeightsModel
        from prefillshare.modules.deployment import resolve

        model = WeightsModel(resolve(_deployment(base, module, manifest)), "module")
        with show_count(suite.name, len(suite.questions)) as count:
            score = model.score(suite, count)
        figures = {"num_right": score.num_right, "num_problems": len(score.samples)}
        return {**figures, "suite": suite.name, "interval_95": score.interval}

    return judge


def _deployment(base: Path, module: Path, manifest: ModuleManifest) -> Deployment:
    assert manifest.kind != "prefill", "only decode modules are quantised"
    decode = DecodeModule(name="module", kind=manifest.kind, path=module, accept_naive=not manifest.shares_prefill)
    prefill, engine = PrefillModule(name="base", path=base), Engine(device="cpu")
    return Deployment(name="quantize", topology="disaggregated", prefill=prefill, decode=(decode,), engine=engine)


def put_report(module: Path, *, as_json: bool) -> None:
    """Print what the run made and measured."""
    report = json.loads((module / "report.json").read_text(encoding="utf-8"))
    if as_json:
        put_json({"module": str(module), **report})
        return
    put(
        f"{module}: {report['bits_per_weight']:.3f} bits per weight, linear layers "
        f"{report['times_smaller_than_bf16']:.1f} times smaller than in bfloat16"
    )
    losses, accuracies = report["held_out_loss"], report["accuracy"]
    if losses or accuracies:
        rows = [(label, _loss(losses.get(name)), *_right(accuracies.get(name))) for name, label in _LABELS.items()]
        put_table(("weights", "held-out loss", "right", "95 % interval"), rows)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def _right(found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    return f"{found['num_right']}/{found['num_problems']}", "{:.1%} to {:.1%}".format(*found["interval_95"])

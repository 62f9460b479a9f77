"""Sampled answers of a measured run, computed again by plain transformers + peft.

Prompt KV by the base with its adapter off, from the last prompt token on the decode module: what a shared system must
answer. Runs as a process of its own (`python -m prefillshare.bench.reference < questions.json`), so that the model's
memory is given back before the next system starts.
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from prefillshare.bench.metrics.prefixes import prompts_of
from prefillshare.bench.records import RunRecord
from prefillshare.bench.workloads.base import Workload
from prefillshare.config.schema import Deployment
from prefillshare.errors import BenchError
from prefillshare.modules.deployment import usable_gpus
from prefillshare.modules.locate import locate
from prefillshare.modules.precision import Dtype, served_dtype


def check_answers(
    deployment: Deployment, workload: Workload, run: RunRecord, num_checked: int, seed: int
) -> dict[str, Any]:
    """Compare a sample of the run's answers with the reference.

    Returns how many were compared, how many are equal to the last token, and the share of equal tokens up to the first
    difference.
    Raises: BenchError when the reference cannot be computed.
    """
    good = [call for call in run.calls if call.error is None]
    sample = random.Random(seed).sample(good, min(num_checked, len(good)))
    outputs = {id(call): prompt for call, prompt in zip(good, prompts_of(workload, good), strict=True)}
    asked = [{"module": call.module, "prompt": outputs[id(call)], "num_tokens": len(call.output)} for call in sample]
    expected = _ask_reference(deployment, asked)
    agreed = [_common(call.output, answer) for call, answer in zip(sample, expected, strict=True)]
    lengths = [len(call.output) for call in sample]
    return {
        "compared": len(sample),
        "exact": sum(same == length for same, length in zip(agreed, lengths, strict=True)),
        "token_agreement": sum(agreed) / sum(lengths) if lengths else None,
    }


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _served_dtype(deployment: Deployment) -> Dtype:
    path = locate(deployment.prefill)
    return served_dtype(deployment.engine, path, on_cpu=not usable_gpus(deployment.engine))


def _ask_reference(deployment: Deployment, asked: list[dict[str, Any]]) -> list[list[int]]:
    questions = {
        "base": str(deployment.prefill.path),
        "adapters": {module.name: str(module.path) for module in deployment.decode},
        "dtype": _served_dtype(deployment),
        "asked": asked,
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "prefillshare.bench.reference"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(
            f"the reference could not be computed ({done.stderr.strip().splitlines()[-1:] or done.returncode}): "
            "go on without it: --resume DIR --check-answers 0"
        )
    answers: list[list[int]] = json.loads(done.stdout)
    return answers


def main() -> None:
    """Answer the questions on standard input."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from prefillshare.training.reference import decode

    questions = json.load(sys.stdin)
    base = AutoModelForCausalLM.from_pretrained(questions["base"], dtype=getattr(torch, questions["dtype"]))
    first, *others = questions["adapters"].items()
    model = PeftModel.from_pretrained(base, first[1], adapter_name=first[0])
    for name, path in others:
        model.load_adapter(path, adapter_name=name)
    # The engines have ended by now, so a GPU has room; on the CPU an 8B model would take minutes per answer.
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    answers = []
    for one in questions["asked"]:
        model.set_adapter(one["module"])
        answers += decode(model, [one["prompt"]], max_new_tokens=one["num_tokens"], end_token=-1)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()

"""Sampled answers of a measured run, computed again by plain transformers + peft.

Prompt KV by the base with its adapter off, from the last prompt token on the decode module (or, where a module's
manifest says so, all KV by the base): what a shared system must answer. Runs as a process of its own
(`python -m prefillshare.bench.reference < questions.json`), so that the model's memory is given back before the next
system starts.
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from prefillshare.bench.metrics.prefixes import prompts_of
from prefillshare.bench.records import Fidelity, RunRecord
from prefillshare.bench.workloads.base import Workload
from prefillshare.codebook.section import codebook_shape
from prefillshare.config.schema import Deployment
from prefillshare.errors import BenchError
from prefillshare.modules.deployment import usable_gpus
from prefillshare.modules.locate import locate
from prefillshare.modules.manifest import KvRule, read_manifest
from prefillshare.modules.precision import Dtype, served_dtype


class Asked(TypedDict):
    """A call that is computed again."""

    module: str
    """Module that was asked."""
    prompt: list[int]
    """Token ids of its prompt."""
    num_tokens: int
    """Tokens of its answer."""


class ServedFidelity(Fidelity):
    """The same, and in which dtype the reference was computed, which is the served one."""

    dtype: Dtype


def check_answers(deployment: Deployment, workload: Workload, run: RunRecord, num_checked: int, seed: int) -> Fidelity:
    """Compare a sample of the run's answers with the reference.

    Raises: BenchError when the reference cannot be computed.
    """
    good = [call for call in run.calls if call.error is None]
    sample = random.Random(seed).sample(good, min(num_checked, len(good)))
    prompts = {id(call): prompt for call, prompt in zip(good, prompts_of(workload, good), strict=True)}
    asked = [Asked(module=call.module, prompt=prompts[id(call)], num_tokens=len(call.output)) for call in sample]
    found = compare_answers(deployment, asked, [call.output for call in sample])
    return Fidelity(compared=found["compared"], exact=found["exact"], token_agreement=found["token_agreement"])


def compare_answers(deployment: Deployment, asked: list[Asked], outputs: Sequence[list[int]]) -> ServedFidelity:
    """Compare the answers to what was `asked` with the reference.

    Raises: BenchError when the reference cannot be computed.
    """
    expected = _ask_reference(deployment, asked)
    agreed = [_count_common(output, answer) for output, answer in zip(outputs, expected, strict=True)]
    lengths = [len(output) for output in outputs]
    return ServedFidelity(
        compared=len(outputs),
        exact=sum(same == length for same, length in zip(agreed, lengths, strict=True)),
        token_agreement=sum(agreed) / sum(lengths) if lengths else None,
        dtype=_served_dtype(deployment),
    )


def _count_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    count = 0
    for token, other in zip(left, right, strict=False):
        if token != other:
            break
        count += 1
    return count


def _served_dtype(deployment: Deployment) -> Dtype:
    path = locate(deployment.prefill)
    return served_dtype(deployment.engine, path, on_cpu=not usable_gpus(deployment.engine))


def _ask_reference(deployment: Deployment, asked: list[Asked]) -> list[list[int]]:
    questions = {
        "base": str(locate(deployment.prefill)),
        "modules": {
            module.name: {
                "path": str(locate(module)),
                "is_adapter": module.kind == "lora" or module.merge,
                "kv_rule": _kv_rule(locate(module)),
                "sharing_ratio": module.sharing_ratio,
            }
            for module in deployment.decode
        },
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
            f"the reference could not be computed ({done.stderr.strip().splitlines()[-1:] or done.returncode}); "
            "a measurement goes on without it: bench --resume DIR --check-answers 0"
        )
    answers: list[list[int]] = json.loads(done.stdout)
    return answers


def _kv_rule(path: Path) -> KvRule:
    manifest = read_manifest(path)
    return manifest.kv_rule if manifest else "own-answers"


def main() -> None:
    """Answer the questions on standard input, a module after the other."""
    import torch
    from transformers import AutoModelForCausalLM

    from prefillshare.training.model import load_expanded

    questions = json.load(sys.stdin)
    # A GPU has room once the engines have ended; on the CPU an 8B model would take minutes per answer.
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def load(path: str) -> Any:
        dtype = getattr(torch, questions["dtype"])
        if codebook_shape(Path(path)) is not None:
            return load_expanded(Path(path), dtype).eval()
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval().to(device)

    base = load(questions["base"])
    answers: dict[int, list[int]] = {}
    for name, module in questions["modules"].items():
        numbers = [number for number, question in enumerate(questions["asked"]) if question["module"] == name]
        if numbers:
            decoded = _decode(base, module, [questions["asked"][number] for number in numbers], load)
            answers.update(zip(numbers, decoded, strict=True))
    json.dump([answers[number] for number in range(len(questions["asked"]))], sys.stdout)


def _decode(base: Any, module: dict[str, Any], asked: list[Asked], load: Callable[[str], Any]) -> Iterator[list[int]]:
    """Answers of one module. An adapter is taken off the base again; a module of full weights is loaded beside it."""
    from peft import PeftModel

    from prefillshare.training.reference import decode

    is_adapter = module["is_adapter"]
    model = PeftModel.from_pretrained(base, module["path"]).eval() if is_adapter else load(module["path"])
    for question in asked:
        yield from decode(
            model,
            [question["prompt"]],
            max_new_tokens=question["num_tokens"],
            end_token=-1,
            prefill_model=None if is_adapter else base,
            kv_rule=module["kv_rule"],
            sharing_ratio=module["sharing_ratio"],
        )
    if is_adapter:
        model.unload()


if __name__ == "__main__":
    main()

"""Several samples of one prompt (``n``) at a worker of a pair: as many prompts, each with a hand-off of its own.

SGLang computes the prompt of such a call once and then sends its samples under one bootstrap room, where their
hand-offs would be mixed up. So the call becomes a batch before SGLang looks at it: both workers of the pair count rooms
up from the call's own in the same way, and the prefill worker computes what the prompts have in common once, as for any
calls that come together (``prefill/underway``). Choices come in upstream's order: prompt by prompt, sample by sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefillshare.wire.from_router import PROMPT_LOGPROB_KEYS
from sglang_patches.answers.seeds import sample_seed
from sglang_patches.checks.calls import PER_PROMPT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sglang.srt.managers.io_struct import GenerateReqInput

    from prefillshare.wire.from_router import PromptLogprobs

_OF_EACH_SAMPLE = ("sampling_params", "rid", "bootstrap_room")
_REPEATED = tuple(name for name in PER_PROMPT if name not in _OF_EACH_SAMPLE)
"""Fields that may have a value for each prompt, which its samples share."""


def count_samples(obj: GenerateReqInput) -> int:
    """How many answers each prompt of the call gets."""
    given = obj.sampling_params
    params = given[0] if isinstance(given, list) and given else given
    return (params or {}).get("n") or 1 if isinstance(params, dict) else 1


def spread_samples(obj: GenerateReqInput) -> None:
    """Make a prompt of each sample.

    Effects: changes ``obj``; nothing where a prompt has one sample.
    Raises: ValueError when the prompts want different numbers of samples.
    """
    num_samples = count_samples(obj)
    params = obj.sampling_params
    if isinstance(params, list) and any((given or {}).get("n", 1) != num_samples for given in params):
        raise ValueError("n differs between the prompts of one call: give the same, or send several calls")
    if num_samples == 1:
        return
    name = "text" if obj.text is not None else "input_ids"
    prompts = getattr(obj, name)
    is_batch = isinstance(prompts if name == "text" else prompts[0], list)
    listed = prompts if is_batch else [prompts]
    setattr(obj, name, _repeat(listed, num_samples))
    for field in _REPEATED:
        if isinstance(value := getattr(obj, field), list):
            setattr(obj, field, _repeat(value, num_samples))
    if isinstance(obj.token_ids_logprob, list) and obj.token_ids_logprob and isinstance(obj.token_ids_logprob[0], list):
        obj.token_ids_logprob = _repeat(obj.token_ids_logprob, num_samples)
    obj.sampling_params = [
        _make_params(given, index)
        for given in (params if isinstance(params, list) else [params] * len(listed))
        for index in range(num_samples)
    ]
    if obj.rid is not None:
        rids = obj.rid if isinstance(obj.rid, list) else _name_prompts(obj.rid, len(listed))
        obj.rid = [f"{rid}_{index}" for rid in rids for index in range(num_samples)]
    # The other worker of the pair makes the same rooms of what it is told.
    rooms = obj.bootstrap_room
    if not isinstance(rooms, list):
        rooms = [rooms + number * num_samples for number in range(len(listed))]
    obj.bootstrap_room = [room + index for room in rooms for index in range(num_samples)]


def is_sample_of(rid: str, call: str) -> bool:
    """Whether the request ``rid`` is a sample of the call with the id ``call``."""
    return rid.startswith(f"{call}_") and rid[len(call) + 1 :].isdigit()


def _make_params(given: dict[str, Any], index: int) -> dict[str, Any]:
    made = {**given, "n": 1}
    if index and made.get("sampling_seed") is not None:
        made["sampling_seed"] = sample_seed(made["sampling_seed"], index)
    return made


def _repeat(values: list[Any], count: int) -> list[Any]:
    return [value for value in values for _ in range(count)]


def _name_prompts(rid: str, count: int) -> list[str]:
    return [rid] if count == 1 else [f"{rid}_{number}" for number in range(count)]


async def with_prompt_logprobs(
    answers: AsyncIterator[Any], scores: Sequence[PromptLogprobs], num_samples: int
) -> AsyncIterator[Any]:
    """The answers with the log-probabilities of their prompts, in the places where one engine has them."""
    async for answer in answers:
        is_list = isinstance(answer, list)
        for place, sample in enumerate(answer if is_list else [answer]):
            index = place if is_list else sample.get("index", 0)
            given = scores[index // num_samples]
            sample["meta_info"].update({key: given[key] for key in PROMPT_LOGPROB_KEYS if key in given})
        yield answer

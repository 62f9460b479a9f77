"""Calls that would end a scheduler, or fail late and without a reason, are refused with one sentence.

Target: ``sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request``
Why: token ids outside of the vocabulary, more top logprobs than there are tokens, and a
    logit bias that is no number reach the model and end the process for everybody. A
    grammar that cannot be parsed is found only in the scheduler; across workers that is
    after the hand-off has begun, so the call ends in a timeout.
How: checked before the original; a ValueError is answered with 400.
Upstream: sglang/srt/managers/tokenizer_manager.py:1140 at 0.5.17.
Remove when: upstream checks them there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_LOGIT_BIAS = 100.0
"""As the OpenAI API defines it."""


_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
"""Time and source line, with which xgrammar's messages begin."""


def wrap_validate_one_request(original: Callable[..., None]) -> Callable[..., None]:
    def _validate_one_request(self: Any, obj: Any, input_ids: list[int]) -> None:
        check_request(obj, input_ids, self.model_config.vocab_size)
        original(self, obj, input_ids)

    return _validate_one_request


def check_request(obj: Any, input_ids: Sequence[int] | None, vocab_size: int) -> None:
    """Look at what upstream trusts.

    Raises: ValueError saying what is wrong, the value and what is allowed.
    """
    if input_ids and not all(isinstance(one, int) for one in input_ids):
        raise ValueError("a token id is not a whole number: give a list of token ids")
    if input_ids and not 0 <= min(input_ids) <= max(input_ids) < vocab_size:
        wrong = next(one for one in input_ids if not 0 <= one < vocab_size)
        raise ValueError(f"token id {wrong} does not exist: ids of this model are 0 to {vocab_size - 1}")
    wanted = getattr(obj, "top_logprobs_num", None)
    if isinstance(wanted, int) and not 0 <= wanted <= vocab_size:
        raise ValueError(f"top_logprobs_num is {wanted}: it must be 0 to {vocab_size}")
    params = getattr(obj, "sampling_params", None)
    if isinstance(params, Mapping):
        _check_bias(params.get("logit_bias"))
        _check_patterns(params)


def _check_bias(bias: Any) -> None:
    if not isinstance(bias, Mapping):
        return
    for token, value in bias.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > MAX_LOGIT_BIAS:
            raise ValueError(f"logit_bias of token {token} is {value}: it must be a number from -100 to 100")


def _check_patterns(params: Mapping[str, Any]) -> None:
    stops = params.get("stop_regex") or ()
    for pattern in (stops,) if isinstance(stops, str) else stops:
        _check("stop_regex", pattern, re.compile)
    for name, parse in (("json_schema", _parse_schema), ("regex", _parse_regex), ("ebnf", _parse_ebnf)):
        if params.get(name) is not None:
            _check(name, params[name], parse)


def _check(name: str, value: Any, parse: Callable[[Any], Any]) -> None:
    try:
        parse(value)
    except Exception as error:  # the parsers raise what they like, and all of it means the same
        reason = (_PLACE.sub("", str(error)).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be used ({reason[:200]}): correct it") from None


def _parse_schema(schema: Any) -> None:
    import xgrammar

    if schema != "$$ANY$$":
        text = schema if isinstance(schema, str) else json.dumps(schema)
        xgrammar.Grammar.from_json_schema(text)


def _parse_regex(pattern: str) -> None:
    import xgrammar

    xgrammar.Grammar.from_regex(pattern)


def _parse_ebnf(grammar: str) -> None:
    import xgrammar

    xgrammar.Grammar.from_ebnf(grammar)

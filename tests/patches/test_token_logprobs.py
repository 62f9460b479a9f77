"""One request asks for the log-probabilities of tokens, another beside it does not."""

import torch
from sglang.srt.layers import logprob_processor

from sglang_patches.patches.token_logprobs import wrap_get_token_ids_logprobs


def test_every_place_holds_what_the_scheduler_can_turn_into_a_list() -> None:
    logprobs = torch.log_softmax(torch.randn(3, 7), dim=-1)
    original = logprob_processor.get_token_ids_logprobs
    wanted = [[1, 3], None, []]
    values, ids = wrap_get_token_ids_logprobs(original)(logprobs, wanted, no_copy_to_cpu=True)
    assert [one.tolist() for one in values] == [logprobs[0, [1, 3]].tolist(), [], []]
    assert ids == original(logprobs, wanted)[1]
    assert [type(one) for one in original(logprobs, wanted, no_copy_to_cpu=True)[0]][1] is list, "upstream mended it"

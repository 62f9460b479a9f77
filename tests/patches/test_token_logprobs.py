"""Log-probabilities of one request beside others that ask for none, and of several tokens in one piece of a stream."""

import torch
from sglang.srt.layers import logprob_processor

from sglang_patches.patches.token_logprobs import wrap_get_token_ids_logprobs
from tests.support.engines import MODELS_DIR
from tests.support.rendering import serve


def test_every_place_holds_what_the_scheduler_can_turn_into_a_list() -> None:
    logprobs = torch.log_softmax(torch.randn(3, 7), dim=-1)
    original = logprob_processor.get_token_ids_logprobs
    wanted = [[1, 3], None, []]
    values, ids = wrap_get_token_ids_logprobs(original)(logprobs, wanted, no_copy_to_cpu=True)
    assert [one.tolist() for one in values] == [logprobs[0, [1, 3]].tolist(), [], []]
    assert ids == original(logprobs, wanted)[1]
    assert [type(one) for one in original(logprobs, wanted, no_copy_to_cpu=True)[0]][1] is list, "upstream mended it"


def test_each_token_of_a_streams_piece_has_its_own_top_logprobs() -> None:
    """A reader that is held up gets several tokens in one piece."""
    from transformers import AutoTokenizer

    from sglang_patches.engine.openai_chat import OpenAIServingChat

    stock = serve(AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base"), None).serving
    serving = OpenAIServingChat(stock.tokenizer_manager, stock.template_manager)
    serving.tokenizer_manager.server_args.incremental_streaming_output = False
    pairs = [(-0.5, 1, "a"), (-0.25, 2, "b"), (-0.125, 3, "c")]
    told = {"output_token_logprobs": pairs, "output_top_logprobs": [[pair] for pair in pairs]}
    tokens = serving._process_streaming_logprobs({"meta_info": told}, 1, 3).content
    assert [(token.token, token.top_logprobs[0].token) for token in tokens] == [("b", "b"), ("c", "c")]
    assert [token.top_logprobs[0].logprob for token in tokens] == [-0.25, -0.125]

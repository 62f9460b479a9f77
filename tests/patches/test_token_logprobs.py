"""Log-probabilities of one request beside others, of no token, and of several tokens in one piece of a stream."""

from types import SimpleNamespace

import pytest
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


@pytest.mark.parametrize(("num_wanted", "told"), [(0, []), (3, [-0.5])])
def test_a_call_for_no_token_tells_of_none_beside_calls_for_some(num_wanted, told, monkeypatch):
    """A pass that one call wants a token of samples one for each; of the next token's candidates each may tell."""
    from sglang.srt.managers.schedule_batch import ReqLogprob
    from sglang.srt.managers.scheduler_components.logprob_result_processor import SchedulerLogprobResultProcessor

    from sglang_patches.engine.batch_result_processor import SchedulerBatchResultProcessor

    monkeypatch.setattr(SchedulerLogprobResultProcessor, "_is_multi_item_scoring", lambda *_: False)
    processor = SchedulerBatchResultProcessor.__new__(SchedulerBatchResultProcessor)
    made = SchedulerLogprobResultProcessor(model_config=None)
    object.__setattr__(processor, "logprob_result_processor", made)  # of a frozen dataclass with many fields
    lists = ("token_logprobs", "top_logprobs", "token_ids_logprobs")
    empty = {f"output_{name}_{part}": [] for name in lists for part in ("val", "idx")}
    logprob = ReqLogprob(top_logprobs_num=1, token_ids_logprob=None, **empty)
    params = SimpleNamespace(max_new_tokens=num_wanted)
    req = SimpleNamespace(return_logprob=True, sampling_params=params, logprob=logprob)
    sampled = SimpleNamespace(
        next_token_logprobs=[-0.5], next_token_top_logprobs_val=[[-0.5]], next_token_top_logprobs_idx=[[7]]
    )
    places = {"i": 0, "extend_input_len_per_req": [4], "extend_logprob_start_len_per_req": [4], "logprob_pt": 0}
    processor._apply_prefill_logprobs(req=req, logits_output=sampled, next_token_ids=[7], **places)
    assert logprob.output_token_logprobs_val == told
    assert logprob.output_token_logprobs_idx == [7] * len(told)
    assert logprob.output_top_logprobs_val == [[-0.5]]

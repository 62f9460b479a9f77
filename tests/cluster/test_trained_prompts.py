"""A prompt is trained as a router's workers see it."""

from transformers import AutoTokenizer

from tests.cluster.conftest import Cluster
from tests.support.engines import MODELS_DIR
from tests.support.served_chats import CHATS, calls_of, trained_prompts


def test_trained_prompts_are_the_served_ones(cluster: Cluster) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")
    fields = {"model": "tool", "max_tokens": 1, "return_prompt_token_ids": True}
    for name, (messages, tools) in CHATS.items():
        served = []
        for asked in calls_of(messages, tools):
            reply = cluster.http.post("/v1/chat/completions", json={**fields, **asked})
            assert reply.status_code == 200, reply.text
            served.append(reply.json()["choices"][0]["prompt_token_ids"])
        assert trained_prompts(messages, tools, tokenizer) == served, name

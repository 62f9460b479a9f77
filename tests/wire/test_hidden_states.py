"""Hidden states from a prefill worker to a router: number by number what the worker had."""

import random
import struct

import orjson
import pytest

from prefillshare.errors import AnswerError
from prefillshare.wire.hidden_states import read_states, write_states


def test_states_come_as_they_went() -> None:
    generator = random.Random(3)
    sent = [[struct.unpack("f", struct.pack("f", generator.gauss(0, 9)))[0] for _ in range(64)] for _ in range(3)]
    body = write_states(sent, [{"prompt_tokens": number} for number in range(3)])
    assert [list(state) for state in read_states(body)] == sent
    assert [item["meta_info"]["prompt_tokens"] for item in orjson.loads(body)] == [0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"3",
        b'[{"meta_info": {}}]',
        b'[{"state": 3}]',
        b'[{"state": "&"}]',
        b'[{"state": "AAA="}]',
        b'[{"state": ""}]',
        b'[{"state": "AAAAAA=="}, {"state": "AAAAAAAAAAA="}]',
        b'{"text": "", "meta_info": {"finish_reason": {"type": "abort"}}}',
    ],
)
def test_what_tells_no_states_is_found_out(content: bytes) -> None:
    with pytest.raises(AnswerError, match="told no hidden states of the prompt"):
        read_states(content)

"""With which tokens the next prompt certainly begins, once an answer has ended.

Not always with prompt and answer: a chat template rewrites history (drops thinking, formats the calls of functions),
and text is cut into other tokens when more follows. So what may come next is tried: the conversation is rendered with
the answer as history and several turns after it, by the code that renders calls, and the start that all of them have in
common is what every next prompt has. Where it is wrong all the same, tokens are computed in vain and nothing else.

    prompt   | answer |          what was computed for the call
    history  | ..same start ..|  one next turn
    history  | ..same start ..|  another one
             common start -----^
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from sglang_patches.eager.tails import Tails

if TYPE_CHECKING:
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionMessageParam, ChatCompletionRequest, ChatMessage
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat

NEXT_TEXTS = ("0", "\n\nThe", " and")
"""Begins of what may follow: no two of them make the same token with what stands before."""
INSTRUCTING = ("system", "developer")
"""Roles whose turns a template may put before the conversation, wherever they stand."""

_LAST_WORD = re.compile(r"\S{0,16}\s{0,16}\Z")
"""The end of a text that more letters may change; where no spaces are, so many characters."""

_UNASKED = {
    "logprobs": False,
    "return_hidden_states": False,
    "return_routed_experts": False,
    "return_cached_tokens_details": False,
    "return_prompt_token_ids": False,
    "return_token_ids": False,
    "return_meta_info": False,
}
"""Parts of a reply that do not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a call ended."""

    text: str
    """What was said, without what ended it."""
    token_ids: Sequence[int]
    """The generated tokens, with what ended it."""
    meta_info: Mapping[str, Any]
    """What a reply is made of beside the text: counts, and ``finish_reason``."""

    @property
    def is_cut(self) -> bool:
        """Whether the last token is a stop token, which the text has not."""
        reason = self.meta_info["finish_reason"]
        return reason["type"] == "stop" and [reason.get("matched")] == list(self.token_ids[-1:])


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat call, and who renders it."""

    serving: OpenAIServingChat
    request: ChatCompletionRequest

    def find_continuation(self, answer: Answer, tails: Tails) -> list[int]:
        """The tokens with which every next turn begins; none where that is not known.

        Effects: `tails` remembers the call.
        Raises: ValueError when the template takes no such conversation.
        """
        message = self._read_message(answer)
        if message is None or self.request.continue_final_message:
            return []
        asked = self.request.messages
        num_left_out = tails.count_vanishing(asked)
        tails.note(asked, message.content or "")
        kept = asked[: len(asked) - num_left_out]
        found = common_start([self._render_next(kept, turns) for turns in next_turns(message, asked)])
        # A question that begins with spaces makes one token of them and the line's end before it.
        while found and self.serving.tokenizer_manager.tokenizer.decode(found[-1:]).isspace():
            found.pop()
        return found

    def _render_next(
        self, kept: list[ChatCompletionMessageParam], turns: list[ChatCompletionMessageParam]
    ) -> Sequence[int]:
        try:
            return self._render([*kept, *turns])
        except ValueError:
            # Many templates refuse two questions in a row; one they all take.
            if len(turns) <= 2:
                raise
            return self._render([*kept, *turns[:2]])

    def _read_message(self, answer: Answer) -> ChatMessage | None:
        """What the caller got, whether at once or in pieces."""
        request = self.request.model_copy(update=_UNASKED)
        meta_info = dict(answer.meta_info)
        # Upstream writes into it where the answer calls a function, and the caller's reply is made of the same one.
        meta_info["finish_reason"] = dict(answer.meta_info["finish_reason"])
        item = {"text": answer.text, "output_ids": list(answer.token_ids), "meta_info": meta_info}
        reply = self.serving._build_chat_response(request, [item], 0)
        choices = getattr(reply, "choices", None)  # an error has none
        return choices[0].message if choices else None

    def _render(self, messages: list[ChatCompletionMessageParam]) -> Sequence[int]:
        request = self.request.model_copy(update={"messages": messages})
        ids = self.serving._process_messages(request, False).prompt_ids
        if isinstance(ids, str):
            raise ValueError("the conversation is not rendered as tokens")
        return ids


def next_turns(
    message: ChatMessage, asked: Sequence[ChatCompletionMessageParam]
) -> list[list[ChatCompletionMessageParam]]:
    """Ways in which a conversation may go on after `message`, the answer to `asked`, which stands first in each.

    Callers give thinking back or leave it out. Calls of functions are followed by their results, all other answers by
    one question or two: a template may count turns, or put those of some roles before all others.
    """
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionMessageGenericParam

    thoughts = cycle([message.reasoning_content, None])
    ways: list[list[ChatCompletionMessageParam]] = []
    for text, thought, roles in zip(NEXT_TEXTS, thoughts, _next_roles(message, asked), strict=False):
        # Another id each time, from its first letter on: the caller has one that was made when its answer was read.
        calls = [
            call.model_copy(update={"id": f"{text.strip()}{place}"})
            for place, call in enumerate(message.tool_calls or ())
        ]
        said = ChatCompletionMessageGenericParam(
            role="assistant", content=message.content, tool_calls=calls or None, reasoning_content=thought
        )
        results = [ChatCompletionMessageGenericParam(role="tool", content=text, tool_call_id=call.id) for call in calls]
        ways.append([said, *(results or [_ask(role, text) for role in roles])])
    return ways


def _next_roles(message: ChatMessage, asked: Sequence[ChatCompletionMessageParam]) -> list[list[str]]:
    """The roles of each way; rendering a long conversation takes time, so there are few."""
    if message.tool_calls:
        return [[], []]
    late = asked[next((place for place, turn in enumerate(asked) if turn.role not in INSTRUCTING), len(asked)) :]
    instructing = [[turn.role] for turn in late if turn.role in INSTRUCTING]
    return [["user"], ["user", "user"], *instructing[-1:]]


def _ask(role: str, text: str) -> ChatCompletionMessageParam:
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionMessageGenericParam, ChatCompletionMessageUserParam

    if role == "user":
        return ChatCompletionMessageUserParam(role="user", content=text)
    return ChatCompletionMessageGenericParam(role=role, content=text)


def after_tokens(prompt_ids: Sequence[int], answer: Answer) -> list[int]:
    """The next prompt's start for a caller who sends tokens: a stop token may be left out, all others come back."""
    return [*prompt_ids, *(answer.token_ids[:-1] if answer.is_cut else answer.token_ids)]


def after_text(tokenize: Callable[[str], Sequence[int]], prompt: str, answer: Answer) -> list[int]:
    """The next prompt's start for a caller who sends text, which is cut into tokens anew.

    An answer may have ended within a word, so its last one is uncertain.
    """
    text = prompt + answer.text
    before_last_word = text[: _LAST_WORD.search(text).start()]  # type: ignore[union-attr]  # it matches nothing, too
    return common_start([tokenize(text + more) for more in NEXT_TEXTS] + [tokenize(before_last_word + NEXT_TEXTS[0])])


def common_start(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens with which all of `prompts` begin."""
    first, *others = prompts
    end = min(len(prompt) for prompt in prompts)
    for place in range(end):
        if any(other[place] != first[place] for other in others):
            return list(first[:place])
    return list(first[:end])

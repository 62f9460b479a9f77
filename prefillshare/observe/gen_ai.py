"""What OpenTelemetry's conventions for generative AI call the parts of a call: names of a span's attributes.

The conventions (attributes ``gen_ai.*``) moved to a repository of their own; OpenTelemetry's package still has the
names, all marked as deprecated for that, so those in use stand here. No text of prompts or answers is among them.
"""

from typing import Final

PROVIDER: Final = "prefillshare"
PROVIDER_NAME: Final = "gen_ai.provider.name"
OPERATION_NAME: Final = "gen_ai.operation.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"

_CHAT_PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


def name_operation(path: str) -> str:
    """Return what a call at an address is: `chat`, or `text_completion`."""
    return "chat" if path.startswith(_CHAT_PATHS) else "text_completion"


def describe_call(path: str, module: str, session: str | None) -> dict[str, str]:
    """Return the attributes that are known when a call comes; `session` is the client's name for it."""
    known = {PROVIDER_NAME: PROVIDER, OPERATION_NAME: name_operation(path), REQUEST_MODEL: module}
    return known if session is None else known | {CONVERSATION_ID: session}

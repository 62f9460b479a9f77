"""From a body to a call: the module, the prompts, and what each leg is told; what cannot be used is refused."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson

from prefillshare.contract import SESSION_HEADER
from prefillshare.errors import short_repr
from prefillshare.naming.asked import Asked, has_none, last_words
from prefillshare.naming.bodies import find_undecided, mean_alias, replace_aliases
from prefillshare.naming.names import Names
from prefillshare.routing.call.call import Body, Call, Choice, Endpoint
from prefillshare.routing.call.checks import check_fields, check_items
from prefillshare.routing.call.metering import ask_usage
from prefillshare.routing.call.prefetch import wants_prefetch
from prefillshare.routing.call.prompt import chat_prompts, text_prompts
from prefillshare.routing.call.samples import as_list, count_samples
from prefillshare.routing.call.scoring import make_scoring
from prefillshare.routing.errors import BadCallError, UnknownModelError
from prefillshare.tenants.account import Account
from prefillshare.tenants.confine import ConfinedError, check_module, confine
from prefillshare.wire.sessions import find_session

Shape = tuple[int | None, tuple[bytes, ...]]
"""Number of prompts of a batch, None for a single one; canonical prompts."""

# What a leg sets for itself, or leaves out. A client's own rid is among these: a worker aborts every request whose id
# begins with the given one, so a short rid would end other people's calls.
_PER_LEG = frozenset(
    "model lora_path stream rid bootstrap_host bootstrap_port bootstrap_room bootstrap_pair_key "
    "disagg_prefill_dp_rank".split()
)
# What is wanted of the answer. A prefill worker computes none of it, and would fail where it makes up its own reply.
_OF_THE_ANSWER = frozenset(
    "stream_options logprobs top_logprobs return_logprob logprob_start_len top_logprobs_num token_ids_logprob "
    "return_text_in_logprobs echo return_hidden_states return_routed_experts return_token_ids "
    "return_prompt_token_ids return_meta_info".split()
)


@dataclass(slots=True, kw_only=True)
class Served:
    """What a deployment can be asked."""

    names: Names
    """Names of its modules."""
    vocab_size: int | None = None
    """Token ids there are; None when the router was not told."""
    alone: Collection[str] = ()
    """Modules that compute their prompts themselves, also those of calls for no token."""


def parse_call(
    endpoint: Endpoint,
    raw: bytes,
    served: Served,
    *,
    header: Callable[[str], str | None] = has_none,
    addressed: str | None = None,
    account: Account | None = None,
    choice: Choice | None = None,
) -> Call:
    """Return the call in the body `raw`; `addressed` is the module of the address, for a body that names none.

    `header` gives the value of one of its headers. `account` is the tenant whose call it is, if it is one's. `choice`
    is what a prefill worker has made of its prompts; without it the call may come back undecided.

    Raises: BadCallError when the body cannot be used, UnknownModelError when it names no decode module,
    ForbiddenModuleError when it names one that is not the tenant's.
    """
    given = read_object(raw)
    asked = _read_asked(given, header, account, choice)
    undecided = _find_undecided(given, addressed, served.names, asked)
    body: Body = replace_aliases(_with_one_path(given), served.names, asked)
    hides_usage = False
    addressed = None if addressed is None else mean_alias(addressed, served.names, asked)
    if account is not None:
        body, hides_usage = _confine(endpoint, body, account, served, addressed)
    is_stream = _read_flag(body, "stream")
    is_prefetch = wants_prefetch(body)
    asks_nothing = endpoint == "/generate" and ((not is_stream and _asks_for_nothing(body)) or is_prefetch)
    module = _find_module(body, served.names, addressed, asked.session, may_be_base=asks_nothing)
    is_prefill_only = (is_prefetch or asks_nothing) and module not in served.alone
    num_samples = count_samples(endpoint, body, is_prefill_only=is_prefill_only, is_prefetch=is_prefetch)
    try:
        num_prompts, prompts = _SHAPES[endpoint](body, served.vocab_size)
        check_fields(body, num_prompts, served.vocab_size)
        shared_body, answer_fields = _split(body)
    except orjson.JSONEncodeError as error:
        raise _cannot_write(error) from None
    return Call(
        endpoint=endpoint,
        module=served.names.base if is_prefill_only else module,
        is_prefill_only=is_prefill_only,
        shared_body=shared_body,
        answer_fields=answer_fields,
        is_stream=is_stream,
        num_prompts=num_prompts,
        num_samples=num_samples,
        scoring=None if is_prefill_only or is_prefetch else make_scoring(endpoint, body),
        prompts=prompts,
        session=asked.session,
        account=account,
        undecided=None if is_prefill_only else undecided,
        choice=choice,
        prefetched_for=module if is_prefetch and is_prefill_only else None,
        hides_usage=hides_usage,
    )


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises: BadCallError.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadCallError(f"the body is not JSON ({error}): send a JSON object") from None
    if not isinstance(body, dict):
        raise BadCallError(f"the body is {_kind(body)}: send a JSON object")
    return body


def write_object(body: Body) -> bytes:
    """Return `body` as JSON, as a worker is sent it.

    Raises: BadCallError: more can be read than be written.
    """
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise _cannot_write(error) from None


def _cannot_write(error: orjson.JSONEncodeError) -> BadCallError:
    return BadCallError(f"the body cannot be passed on ({error}): nest it less deeply")


def _read_asked(
    body: Body, header: Callable[[str], str | None], account: Account | None, choice: Choice | None
) -> Asked:
    session = find_session(header(SESSION_HEADER), body, None if account is None else account.session_name)
    asked = Asked(session=session, says=partial(last_words, body), header=header)
    return asked if choice is None else replace(asked, states=choice.states, classify=choice.classify)


def _find_undecided(body: Body, addressed: str | None, names: Names, asked: Asked) -> str | None:
    """Return the alias whose classifier is to choose the module, and has not seen the prompts."""
    if not names.aliases:
        return None
    decides = addressed is not None and body.get("model") is None and body.get("lora_path") is None
    return find_undecided({"model": addressed} if decides else body, names, asked)


def _with_one_path(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with one name where it gives the same for each prompt: one module answers all of them."""
    paths = body.get("lora_path")
    is_one = isinstance(paths, list) and bool(paths) and all(path == paths[0] for path in paths)
    return {**body, "lora_path": paths[0]} if is_one and paths else body


def _split(body: Body) -> tuple[bytes, dict[str, Any]]:
    """Return what both legs are told, as JSON, and what only the leg that answers is told.

    Raises: orjson.JSONEncodeError.
    """
    shared = {name: value for name, value in body.items() if name not in _PER_LEG}
    answer_fields = {name: shared.pop(name) for name in _OF_THE_ANSWER & shared.keys()}
    shared_body = orjson.dumps(shared)
    if answer_fields:
        orjson.dumps(answer_fields)  # only to see that it can be written: each leg writes it with fields of its own
    return shared_body, answer_fields


def _read_flag(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadCallError(f"{name} is {_show(value)}: it must be true or false", param=name)
    return bool(value)


def _asks_for_nothing(body: Body) -> bool:
    samplings = [sampling for sampling in as_list(body.get("sampling_params")) if isinstance(sampling, Mapping)]
    limits = [sampling.get("max_new_tokens") for sampling in samplings]
    return bool(limits) and all(limit == 0 and not isinstance(limit, bool) for limit in limits)


def _find_module(body: Body, names: Names, addressed: str | None, session: str | None, *, may_be_base: bool) -> str:
    base = names.base
    named, lora_path = body.get("model"), _read_lora_path(body)
    if named is None or named == base:
        named = lora_path or named
    named = addressed if named is None else named
    if may_be_base and named in (None, base):
        return base
    known = f"this deployment has: {names.describe()}"
    if named is None:
        raise BadCallError(f"model is missing: name a decode module; {known}", param="model")
    if not isinstance(named, str):
        raise BadCallError(f"model is {_show(named)}: it must be the name of a decode module; {known}", param="model")
    found = names.find(Asked(name=named, session=session))
    if found is not None and found != base:
        return found
    if found == base:
        message = f"model {base!r} is the prefill module, which never decodes here: name a decode module; {known}"
        raise UnknownModelError(message, param="model")
    raise UnknownModelError(f"model {_show(named)} does not exist; {known}", param="model")


def _read_lora_path(body: Body) -> Any:
    path = body.get("lora_path")
    if path is None or isinstance(path, str):
        return path
    if not isinstance(path, list):
        raise BadCallError(f"lora_path is {_show(path)}: it must be the name of a decode module", param="lora_path")
    if not path or any(item != path[0] for item in path):
        raise BadCallError("lora_path names several modules: send one call for each", param="lora_path")
    return path[0]


def _confine(
    endpoint: Endpoint, body: Body, account: Account, served: Served, addressed: str | None
) -> tuple[Body, bool]:
    """Return a tenant's call as it may go further, and whether its client is not to see the usage of a stream."""
    check_module(body, account, addressed, served.names.base)
    try:
        return ask_usage(endpoint, confine(body, account))
    except ConfinedError as error:
        raise BadCallError(str(error), param=error.param) from None


def _read_chat(body: Body, vocab_size: int | None) -> Shape:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadCallError(f"messages is {_show(messages)}: it must be a list of messages", param="messages")
    return None, chat_prompts(body)


def _read_messages(body: Body, vocab_size: int | None) -> Shape:
    shape = _read_chat(body, vocab_size)
    system = body.get("system")
    # One canonical form with that of chats: the prompt is the same, whichever door it comes in by.
    as_chat = {**body, "messages": [*([{"role": "system", "content": system}] if system else []), *body["messages"]]}
    return shape if not system else (None, chat_prompts(as_chat))


def _read_responses(body: Body, vocab_size: int | None) -> Shape:
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise BadCallError(f"input is {_show(given)}: it must be text or a list of items", param="input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    return None, chat_prompts({**body, "messages": [*system, *items]})


def _read_completion(body: Body, vocab_size: int | None) -> Shape:
    return _read_prompt(body, "prompt", vocab_size)


def _read_generate(body: Body, vocab_size: int | None) -> Shape:
    return _read_prompt(body, "text" if body.get("text") is not None else "input_ids", vocab_size)


def _read_prompt(body: Body, name: str, vocab_size: int | None) -> Shape:
    prompt = body.get(name)
    if not isinstance(prompt, str | list) or not prompt:
        wanted = "it must be text or a list of token ids, or a list of these"
        raise BadCallError(f"{name} is {_show(prompt)}: {wanted}", param=name)
    if isinstance(prompt, str):
        return None, text_prompts(body, prompt)
    is_batch = not isinstance(prompt[0], int)
    for items in prompt if is_batch and isinstance(prompt[0], list) else [prompt]:
        check_items(items, name, vocab_size)
    return (len(prompt) if is_batch else None), text_prompts(body, prompt)


_SHAPES: dict[Endpoint, Callable[[Body, int | None], Shape]] = {
    "/v1/chat/completions": _read_chat,
    "/v1/completions": _read_completion,
    "/generate": _read_generate,
    "/v1/messages": _read_messages,
    "/v1/responses": _read_responses,
}


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _show(value: Any) -> str:
    return "missing" if value is None else short_repr(value)

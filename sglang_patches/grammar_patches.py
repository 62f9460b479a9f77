"""The patches that bound what callers' patterns and grammars cost; a part of the registry's list of engine patches.

The constraints of required tool calls are among them.
"""

from __future__ import annotations

from sglang_patches.answers import stop_patterns
from sglang_patches.answers import trials as grammar_checks
from sglang_patches.engine import tool_parser as tool_choice
from sglang_patches.engine import xgrammar as grammar_steps
from sglang_patches.patch import Patch
from sglang_patches.patch import sglang_patch as _patch
from sglang_patches.patches import tool_schemas

_XGRAMMAR = "constrained.xgrammar_backend"
_PARSER = "function_call.function_call_parser"
_CHAT = "entrypoints.openai.serving_chat"
_RESULTS = "managers.scheduler_components.batch_result_processor"
_SILENT = "an answer that cannot go on would end without a reason"
_SLOW = "a grammar could hold up every call of a batch"
_RELIED = "relied on: where stop patterns are searched"

GRAMMAR_PATCHES: tuple[Patch, ...] = (
    _patch(
        "managers.tokenizer_manager",
        "TokenizerManager._validate_and_resolve_lora",
        "6feabb213ac75a17",
        "a schema or pattern could take minutes, or end the scheduler",
        grammar_checks.wrap_validate_and_resolve_lora,
    ),
    _patch(
        "managers.schedule_batch",
        "re",
        "66ec018201fb03f1",
        "a stop pattern could double its time with each token, for all calls",
        stop_patterns.LinearSearch,
    ),
    _patch("managers.schedule_batch", "Req._check_str_based_finish", "341196c79cb947d0", _RELIED),
    _patch(
        "sampling.sampling_params",
        "get_max_seq_length",
        "84828fb7051efadf",
        "a stop pattern would have the whole answer decoded for each token",
        stop_patterns.wrap_max_length,
    ),
    _patch(
        _CHAT,
        "Draft202012Validator",
        "4006458bd660d883",
        "the schemas of many tools would hold up everybody while they are checked",
        tool_schemas.FastValidator,
    ),
    _patch(
        _PARSER,
        "FunctionCallParser.get_structure_constraint",
        "601d2c9707138b0c",
        "another tool than the one that the caller names could be called",
        tool_choice.wrap_get_structure_constraint,
    ),
    _patch(
        _PARSER,
        "FunctionCallParser.get_legacy_structural_tag",
        "2e51f78d7572640f",
        "the arguments of a required call could be a text",
        tool_choice.wrap_get_legacy_structural_tag,
    ),
    _patch(
        _CHAT,
        "parse_tool_call_arguments",
        "6602eba4b757ad52",
        "a call without arguments that comes back as an empty text would be refused",
        tool_choice.wrap_parse_tool_call_arguments,
    ),
    _patch(_XGRAMMAR, "XGrammarGrammar.fill_vocab_mask", "df27a6836c85a27c", _SLOW, grammar_steps.wrap_fill_vocab_mask),
    _patch(_XGRAMMAR, "XGrammarGrammar.accept_token", "dbf4eb2cd5fb65ee", _SLOW, grammar_steps.wrap_accept_token),
    _patch(
        _XGRAMMAR,
        "GrammarCompiler",
        "a523bc4e371b91a3",
        "every grammar ever asked for would stay in memory",
        grammar_steps.bound_compiler,
    ),
    _patch(
        "constrained.base_grammar_backend",
        "BaseGrammarBackend.set_cache",
        "84932b527abd0ee5",
        "every grammar ever asked for would stay in memory",
        grammar_steps.wrap_set_cache,
    ),
    _patch(
        _RESULTS,
        "SchedulerBatchResultProcessor._accept_grammar_tokens",
        "549c2c2e2e3c8eff",
        _SILENT,
        grammar_steps.wrap_accept,
    ),
    _patch(
        _RESULTS,
        "SchedulerBatchResultProcessor._apply_prefill_grammar",
        "3d9a09dc6d547224",
        _SILENT,
        grammar_steps.wrap_accept,
    ),
)
"""Needed wherever callers are not trusted with the engine's time."""

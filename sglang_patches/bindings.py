"""The ordered list of patches for shared prefill, and the one place that applies patches.

Those of machines without an accelerator are listed in ``cpu/patches.py``.

``apply()`` checks every patch first and changes all or none; ``is_applied()`` looks
at the live objects. ``python -m sglang_patches report`` prints the lists.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefillshare.errors import PrefillShareError
from sglang_patches import grammar_patches
from sglang_patches.answers import seeds as seeded_sampling
from sglang_patches.checks import adapters as adapter_checks
from sglang_patches.checks import calls as request_checks
from sglang_patches.checks import prompt_size
from sglang_patches.checks import settings as server_checks
from sglang_patches.disaggregation.patches import DISAGGREGATION_PATCHES
from sglang_patches.engine import ollama as foreign_apis
from sglang_patches.engine import openai_responses as responses_api
from sglang_patches.engine import template_manager as own_template
from sglang_patches.fingerprint import PINNED_SGLANG, installed_sglang
from sglang_patches.http import model_names
from sglang_patches.observed import call_report, traces
from sglang_patches.observed import kv_usage as scheduler_state
from sglang_patches.observed import requests as observed_requests
from sglang_patches.patch import Patch, Replacement
from sglang_patches.patch import sglang_patch as _patch
from sglang_patches.patches import http_server as http_routes
from sglang_patches.patches import openai_serving as openai_user
from sglang_patches.patches import token_logprobs
from sglang_patches.prefill import boundary as request_boundary
from sglang_patches.prefill import partial_targets, waiting
from sglang_patches.prefill import segments as lora_segments
from sglang_patches.prefill import underway as prefill_once


class PatchError(PrefillShareError):
    """The installed SGLang is not the one that the patches were written for."""


_REQ = "managers.schedule_batch"
_LORA = "lora.lora_manager"
_RADIX = "mem_cache.radix_cache"
_POLICY = "managers.schedule_policy"
_SERVING = "entrypoints.openai.serving_base"
_RESPONSES = "entrypoints.openai.serving_responses"
_TOKENIZER = "managers.tokenizer_manager"
_OLLAMA = "entrypoints.ollama.serving"
_STATS = "observability.req_time_stats"
_RELIED_SEGMENTS = "relied on: reads adapters per row of the batch view"
_RELIED_ORIGIN = "relied on: when nodes are made, and which matched prefix counts as cached"
_RELIED_ROWS = "relied on: row ownership that the shared radix cache continues"
_RELIED_TARGETS = "relied on: which projections are one matrix, in which order, and how large"

ENGINE_PATCHES: tuple[Patch, ...] = (
    _patch(
        "server_args",
        "ServerArgs.check_server_args",
        "1d7d36420d953c33",
        "unsupported settings would run unseen",
        server_checks.wrap_check_server_args,
    ),
    _patch(
        _REQ,
        "Req.__init__",
        "6ebd73da76d2c10e",
        "the LoRA id would keep equal prompts apart; no boundary",
        request_boundary.wrap_req_init,
    ),
    _patch(
        "model_executor.forward_batch_info",
        "ForwardBatch.init_new",
        "122dd585a6c00d92",
        "boundaries must reach the LoRA batch",
        lora_segments.wrap_init_new,
    ),
    _patch(
        _LORA,
        "LoRAManager.prepare_lora_batch",
        "6717dd923e136d9a",
        "prompts would be prefilled with the adapter",
        lora_segments.wrap_prepare_lora_batch,
    ),
    _patch(
        _LORA,
        "LoRAManager.can_use_prefill_cuda_graph",
        "53b8296cc902be5b",
        "graph limits count segments, not requests",
        lora_segments.wrap_can_use_prefill_graph,
    ),
    _patch(
        _LORA,
        "LoRAManager.validate_lora_batch",
        "09eb2ea8d9642035",
        "the base slot must be counted in every batch",
        lora_segments.wrap_validate_lora_batch,
    ),
    _patch(
        _LORA,
        "LoRAManager.fetch_new_loras",
        "0fd575f8d18c6349",
        "the base slot must be resident in every batch",
        lora_segments.wrap_fetch_new_loras,
    ),
    _patch(
        _LORA,
        "LoRAManager.validate_new_adapter",
        "7651c86200f71c14",
        "embedding and LM-head adapters would misread segments",
        adapter_checks.wrap_validate_new_adapter,
    ),
    _patch(
        _LORA,
        "LoRAManager.init_lora_modules",
        "eaf9acaa3125d660",
        "MoE adapters would misread segments",
        adapter_checks.wrap_init_lora_modules,
    ),
    _patch(
        "parser.template_manager",
        "TemplateManager.guess_chat_template_from_model_path",
        "9489ca2b0a5eba39",
        "a word in a model's path would replace its chat template",
        own_template.wrap_guess_chat_template,
    ),
    _patch(
        "lora.lora",
        "LoRAAdapter._normalize_weights",
        "64894a268d5faa6e",
        "adapters of some of q, k, v or of up alone would not start",
        partial_targets.wrap_normalize_weights,
    ),
    _patch(
        _SERVING,
        "OpenAIServingBase._resolve_lora_path",
        "49412d2bbba36611",
        "unknown model names would get the base's answer",
        model_names.wrap_resolve_lora_path,
    ),
    _patch(
        _SERVING,
        "OpenAIServingBase._compute_extra_key",
        "23a0884cfa935ad8",
        "two cache salts could share a namespace",
        model_names.wrap_compute_extra_key,
    ),
    _patch(
        "layers.logprob_processor",
        "get_token_ids_logprobs",
        "df044a49fced0b1c",
        "one request that asks for tokens' log-probabilities beside others would end the scheduler",
        token_logprobs.wrap_get_token_ids_logprobs,
    ),
    _patch(
        _RESPONSES,
        "OpenAIServingResponses.create_responses",
        "80dee315da0a87a4",
        "/v1/responses would answer every name with the base",
        responses_api.wrap_create_responses,
    ),
    _patch(
        _RESPONSES,
        "OpenAIServingResponses._generate_with_builtin_tools",
        "90a47c77e3097b51",
        "/v1/responses would ignore the decode module",
        responses_api.wrap_generate_with_tools,
    ),
    _patch(
        _OLLAMA,
        "OllamaServing.handle_chat",
        "175d7e3bae5bc96e",
        "the Ollama endpoints would answer every name with the base",
        foreign_apis.wrap_ollama,
    ),
    _patch(
        _OLLAMA,
        "OllamaServing.handle_generate",
        "a9921502fac88934",
        "the Ollama endpoints would answer every name with the base",
        foreign_apis.wrap_ollama,
    ),
    _patch(
        "entrypoints.anthropic.serving",
        "AnthropicServing.handle_messages",
        "a9f6ed3837503357",
        "an unknown model name would be an internal error",
        foreign_apis.wrap_anthropic,
    ),
    _patch(
        "entrypoints.http_server",
        "set_global_state",
        "1484c09ce798173a",
        "/v1/models/NAME would deny decode modules, /metrics would not know them, errors would have five forms",
        http_routes.wrap_set_global_state,
    ),
    *(
        _patch(_TOKENIZER, f"TokenizerManager.{name}", fingerprint, "requests would not be counted by module", wrap)
        for name, fingerprint, wrap in (
            ("_init_req_state", "e8d69ee3e74f86be", observed_requests.wrap_init_req_state),
            ("collect_metrics", "55a8f44d5521488f", observed_requests.wrap_collect_metrics),
            ("_remove_req_state", "69ad26ca812defad", observed_requests.wrap_remove_req_state),
            ("_handle_abort_req", "8e49bca9d1d26f2c", observed_requests.wrap_handle_abort_req),
        )
    ),
    _patch(
        _STATS,
        "ReqTimeStatsBase.init_trace_ctx",
        "c37bb37caa139f23",
        "every health check would make a trace",
        traces.wrap_init_trace_ctx,
    ),
    _patch(_STATS, "APIServerReqTimeStats.set_created_time", "666479439b604a47", "relied on: begins the span"),
    _patch(
        _TOKENIZER,
        "TokenizerManager._handle_batch_output",
        "4adfb1cf333c5972",
        "relied on: when a request's state goes and its outputs are counted",
    ),
    _patch(
        _SERVING,
        "OpenAIServingBase.handle_request",
        "8cf812ef94ceea99",
        "sessions named by user would be guessed; prefill workers would fail at log-probabilities",
        openai_user.wrap_handle_request,
    ),
    _patch(
        "managers.scheduler",
        "Scheduler.get_internal_state",
        "7d19aa0d964749de",
        "nobody would know how KV memory is used",
        scheduler_state.wrap_get_internal_state,
    ),
    _patch(
        "managers.scheduler",
        "Scheduler.on_idle",
        "59825e5da1a871f4",
        "waiting workers would take the cores of those they wait for",
        waiting.wrap_on_idle,
    ),
    _patch(
        _TOKENIZER,
        "TokenizerManager._validate_one_request",
        "5fb935cea26fd6af",
        "a token id outside of the vocabulary would end the engine",
        request_checks.wrap_validate_one_request,
    ),
    _patch(
        "managers.tokenizer_manager",
        "TokenizerManager.init_tokenizer_and_processor",
        "f903c279068e6021",
        "a text of megabytes would hold up everybody while it is tokenised",
        prompt_size.wrap_init_tokenizer,
    ),
    _patch(
        "entrypoints.openai.serving_chat",
        "OpenAIServingChat._build_chat_response",
        "9cec50f17ab5e985",
        "nobody would see whose prefill was reused, and the size of a hand-off",
        call_report.wrap_build_response,
    ),
    _patch(
        "entrypoints.openai.serving_completions",
        "OpenAIServingCompletion._build_completion_response",
        "8799aaa05dac68d5",
        "nobody would see whose prefill was reused, and the size of a hand-off",
        call_report.wrap_build_response,
    ),
    _patch(
        _POLICY,
        "PrefillAdder.add_one_req",
        "08a95888e5900d75",
        "calls that arrive together would each compute their common start",
        prefill_once.wrap_add_one_req,
    ),
    _patch(
        _POLICY,
        "PrefillAdder.add_chunked_req",
        "3450ace29c1ceee6",
        "nobody would wait for the next chunk of a long common start",
        prefill_once.wrap_add_chunked_req,
    ),
    _patch(_RADIX, "RadixCache.match_prefix", "4ac011eaa716c724", _RELIED_ROWS),
    _patch(_RADIX, "RadixCache.insert", "d4ee45e66c92906b", _RELIED_ROWS),
    _patch(_RADIX, "RadixCache.cache_unfinished_req", "153f82d767e5b2c7", _RELIED_ROWS),
    _patch(_RADIX, "RadixCache.cache_finished_req", "a2b07adf7f49eea8", _RELIED_ROWS),
    _patch(_RADIX, "RadixCache._insert_helper", "6393e577a0ae7260", _RELIED_ORIGIN),
    _patch(_RADIX, "RadixCache._split_node", "f2df01f7cd52b1ac", _RELIED_ORIGIN),
    _patch(_REQ, "ScheduleBatch.prepare_for_extend", "3970b68aad407be1", _RELIED_ORIGIN),
    _patch(_RADIX, "RadixKey", "dcee2fbb2cec9878", _RELIED_ROWS),
    _patch(_REQ, "Req.init_next_round_input", "32feade36c828d1e", _RELIED_ROWS),
    _patch("lora.lora", "LoRAAdapter.normalize_qkv_proj", "f17d8160813b6257", _RELIED_TARGETS),
    _patch("lora.lora", "LoRAAdapter.normalize_gate_up_proj", "cb09dce7c6942d69", _RELIED_TARGETS),
    _patch("lora.utils", "get_hidden_dim", "d07d7bb136bff49e", _RELIED_TARGETS),
    _patch("mem_cache.common", "release_kv_cache", "22899438db477d53", _RELIED_ROWS),
    _patch("mem_cache.registry", "create_tree_cache", "7e3a29b2dbbe304d", _RELIED_ROWS),
    _patch(
        "lora.backend.torch_backend",
        "TorchNativeLoRABackend.prepare_lora_batch",
        "2a7976f8c6ee26fd",
        _RELIED_SEGMENTS,
    ),
    _patch(
        "lora.backend.triton_backend",
        "TritonLoRABackend.prepare_lora_batch",
        "5be7663f39768b85",
        _RELIED_SEGMENTS,
    ),
    _patch(
        "lora.backend.chunked_backend",
        "ChunkedSgmvLoRABackend.prepare_lora_batch",
        "20ab3900625b1c35",
        _RELIED_SEGMENTS,
    ),
    _patch("lora.utils", "generate_sequence_lengths", "661c7622f7f9bb4a", _RELIED_SEGMENTS),
    _patch("lora.utils", "get_lm_head_pruned_lens", "2211bd441df42cf7", _RELIED_SEGMENTS),
    *(
        _patch(module, name, fingerprint, "a seed would be taken silently and change nothing", wrap)
        for module, name, fingerprint, wrap in (
            (
                "sampling.sampling_batch_info",
                "SamplingBatchInfo.from_schedule_batch",
                "e028d9ee8ffffdf5",
                seeded_sampling.wrap_from_schedule_batch,
            ),
            (
                "sampling.sampling_batch_info",
                "SamplingBatchInfo.merge_batch",
                "364edc7b1b463dd7",
                seeded_sampling.wrap_merge_batch,
            ),
            (
                "layers.sampler",
                "Sampler._sample_from_probs",
                "d7387b207d2baf7d",
                seeded_sampling.wrap_sample_from_probs,
            ),
            (
                _TOKENIZER,
                "TokenizerManager._send_one_request",
                "02bcddcf7ca48618",
                seeded_sampling.wrap_send_one_request,
            ),
        )
    ),
    *grammar_patches.GRAMMAR_PATCHES,
    *DISAGGREGATION_PATCHES,
)
"""Shared prefill, in one engine (colocated) and across workers (disaggregated)."""


def problems(patches: Sequence[Patch]) -> list[str]:
    """Every reason why ``patches`` cannot be applied; empty when they can."""
    found = installed_sglang()
    if found != PINNED_SGLANG:
        return [f"SGLang {found or 'is missing'}, expected {PINNED_SGLANG}"]
    return [text for patch in patches if (text := patch.symbol.problem())]


def is_applied(patches: Sequence[Patch] = ENGINE_PATCHES) -> bool:
    """True when every live object carries its patch."""
    return all(patch.is_applied() for patch in patches)


def apply(patches: Sequence[Patch] = ENGINE_PATCHES) -> None:
    """Put all of ``patches`` on the live engine, or none of them.

    Effects: imports the upstream modules; a second call does nothing.
    Raises: PatchError naming each symbol that is not as expected.
    """
    if is_applied(patches):
        return
    reasons = problems(patches)
    if reasons:
        raise PatchError(_refusal(reasons))
    wanted = [patch for patch in patches if patch.wrap is not None]
    half = [patch.symbol.name for patch in wanted if patch.is_applied()]
    if half:
        raise PatchError(f"already patched by someone else: {', '.join(half)}")
    _install([patch.prepare() for patch in wanted])


def _install(replacements: list[Replacement]) -> None:
    done: list[Replacement] = []
    try:
        for replacement in replacements:
            replacement.install()
            done.append(replacement)
    except BaseException:
        for replacement in reversed(done):
            replacement.undo()
        raise


def _refusal(reasons: list[str]) -> str:
    return (
        f"the patches are for SGLang {PINNED_SGLANG} as released and do not fit what "
        f"is installed: {'; '.join(reasons)}. Reinstall the locked set with "
        "`make clean run`, or `pip install sglang==" + PINNED_SGLANG + "`."
    )

"""The patches of disaggregated workers; a part of the registry's list of engine patches.

They are applied in every shared-prefill engine and look at the worker's role when they are called.
"""

from __future__ import annotations

from sglang_patches.changes import Change, sglang_patch
from sglang_patches.disaggregation import aborts, handshake, listener
from sglang_patches.engine import decode_queues, nixl, prefill_queue
from sglang_patches.patches import early_send, penalties, prebuilt_batch

_DECODE = "disaggregation.decode"
_PREFILL = "disaggregation.prefill"
_PREBUILT = "disaggregation.decode_schedule_batch_mixin"
_NIXL = "disaggregation.nixl.conn"
_COMMON = "disaggregation.common.conn"
_TOKENIZER = "managers.tokenizer_manager"
_SPOILED = "an aborted hand-off would be written over a running answer"
_STICKY = "relied on: nothing of an aborted room is sent"
_RELIED = "relied on: who owns which rows during a hand-off"

DISAGGREGATION_PATCHES: tuple[Change, ...] = (
    sglang_patch(
        _DECODE,
        "DecodeTransferQueue._commit_transfer_to_req",
        "9f4706e0c103380e",
        "the prefill worker's token would be the first of the answer",
        decode_queues.wrap_commit_transfer,
    ),
    sglang_patch(
        _DECODE,
        "DecodePreallocQueue.resume_retracted_reqs",
        "2c9e66dfcbcfe52c",
        "rows of resumed requests would leak",
        decode_queues.wrap_resume_retracted,
    ),
    sglang_patch(
        _DECODE,
        "DecodePreallocQueue._ensure_prefill_info",
        "886a2f6c8b95e1f0",
        "KV of another prefill module would be decoded",
        decode_queues.wrap_ensure_prefill_info,
    ),
    sglang_patch(
        _PREBUILT,
        "ScheduleBatchDisaggregationDecodeMixin.prepare_for_prebuilt",
        "059484e67d8f1b2e",
        "x_n would stay computed by the prefill module",
        prebuilt_batch.wrap_prepare_for_prebuilt,
    ),
    sglang_patch(
        _PREBUILT,
        "ScheduleBatchDisaggregationDecodeMixin.process_prebuilt",
        "3c9b54ab0de0a75f",
        "the first step would not compute x_n",
        prebuilt_batch.wrap_process_prebuilt,
    ),
    sglang_patch(
        "managers.schedule_batch",
        "ScheduleBatch.cumulate_penalty_output_tokens",
        "ae2f1ad3f898b1f4",
        "x_n would be penalized as output",
        penalties.wrap_cumulate,
    ),
    sglang_patch(
        _PREFILL,
        "PrefillBootstrapQueue._process_req",
        "e20c6f8f1fd4e8f1",
        "a prefill worker would sample",
        prefill_queue.wrap_process_req,
    ),
    sglang_patch(
        _PREFILL,
        "PrefillBootstrapQueue.finalize_bootstrap",
        "0640ad76fa9c52d5",
        "nobody would know the size of a hand-off",
        prefill_queue.wrap_finalize_bootstrap,
    ),
    sglang_patch(
        _PREFILL,
        "SchedulerDisaggregationPrefillMixin.maybe_send_cached_prefix_chunk",
        "ee806f5cfd9054bd",
        "KV could be sent while it is still being computed",
        early_send.wrap_maybe_send,
    ),
    sglang_patch(
        _COMMON,
        "CommonKVBootstrapServer._setup_routes",
        "50baa9f5ee2ddb61",
        "decode workers could not tell prefill modules apart",
        handshake.wrap_setup_routes,
    ),
    sglang_patch(
        _NIXL,
        "NixlKVManager._start_bootstrap_thread",
        "346efe2c871d77b8",
        "one bad message would end every later hand-off",
        listener.wrap_start_bootstrap_thread,
    ),
    sglang_patch(
        _COMMON,
        "CommonKVManager._start_heartbeat_checker_thread",
        "ea3235b0c6c2d271",
        "nobody would hear that an aborted hand-off is over",
        aborts.wrap_start_heartbeat,
    ),
    sglang_patch(
        _NIXL,
        "NixlKVManager.transfer_worker",
        "7a2338dc23d03512",
        _SPOILED,
        aborts.wrap_transfer_worker,
    ),
    sglang_patch(
        _NIXL,
        "NixlKVManager._handle_abort_notification",
        "1c6485c1f6508564",
        _SPOILED,
        aborts.wrap_handle_abort,
    ),
    sglang_patch(
        _COMMON,
        "CommonKVReceiver._send_abort_notification",
        "23f402c9a5e58dea",
        _SPOILED,
        aborts.wrap_send_abort,
    ),
    sglang_patch(_NIXL, "NixlKVReceiver.poll", "4cffb7de2800cc5f", _SPOILED, aborts.wrap_poll),
    sglang_patch(
        _NIXL,
        "NixlKVSender.__init__",
        "6f8163e7ca3be690",
        "a hand-off that nobody asks for would wait for ever",
        nixl.wrap_init,
    ),
    sglang_patch(
        _NIXL,
        "NixlKVSender.poll",
        "c83e8232c0ab7b41",
        "a hand-off that nobody asks for would wait for ever",
        nixl.wrap_poll,
    ),
    sglang_patch(_NIXL, "NixlKVManager.check_status", "a943a0bead1e5063", _STICKY),
    sglang_patch(_NIXL, "NixlKVManager.update_status", "c30da0c9d1e99b68", _STICKY),
    sglang_patch(_DECODE, "DecodePreallocQueue._match_prefix_and_lock", "d82ed29516232ffd", _RELIED),
    sglang_patch(_DECODE, "DecodePreallocQueue._pre_alloc", "3685af106c14776d", _RELIED),
    sglang_patch(_DECODE, "DecodePreallocQueue.pop_preallocated", "8527f34e9b011957", _RELIED),
    sglang_patch(_DECODE, "DecodeTransferQueue.pop_transferred", "055b4786bca92949", _RELIED),
    sglang_patch(_DECODE, "SchedulerDisaggregationDecodeMixin.get_new_prebuilt_batch", "21a18f591085872b", _RELIED),
    sglang_patch("managers.schedule_batch", "release_req", "e9ac2945297980b3", _RELIED),
    sglang_patch("managers.schedule_policy", "match_prefix_for_req", "4af2fe8ddba2a14f", _RELIED),
)
"""Shared prefill across workers."""

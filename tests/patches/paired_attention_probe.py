"""Runs the attention of second rows through a backend's own Triton kernels; prints the largest difference of each pass.

The kernels run in Triton's interpreter, on the CPU; what they say is held against attention in float64.
"""

import os
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"

import torch
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode

from sglang_patches.icarus.rows import add_second_rows
from sglang_patches.icarus.triton_attention import PairedTritonAttnBackend

SIZE, POOL, SPLITS, SCALE = 16, 200, 4, 0.25
LENGTHS, EXTENDS, PAIRED = (37, 20, 5), (6, 1, 5), (0, 2)
"""Requests after the pass, what it computes of them, and which of them have a second row."""


class Pool:
    """Keys and values as the backend's pool has them."""

    def __init__(self, num_kv_heads):
        self.keys, self.values = torch.randn(2, POOL, num_kv_heads, SIZE)

    def get_key_buffer(self, _):
        return self.keys

    def get_value_buffer(self, _):
        return self.values

    def set_kv_buffer(self, layer, where, keys, values):
        self.keys[where.loc] = keys.view(-1, *self.keys.shape[1:])
        self.values[where.loc] = values.view(-1, *self.values.shape[1:])


def make_backend(pool, slots, num_heads):
    backend = object.__new__(PairedTritonAttnBackend)
    known = {
        "token_to_kv_pool": pool,
        "req_to_token": slots,
        "num_head": num_heads,
        "num_kv_head": pool.keys.shape[1],
        "v_head_dim": SIZE,
        "max_kv_splits": SPLITS,
        "decode_attention_fwd": decode_attention_fwd,
        "extend_attention_fwd": extend_attention_fwd,
        "kv_indptr": torch.zeros(9, dtype=torch.int32),
        "_second_kv_indptr": torch.zeros(9, dtype=torch.int32),
        "qo_indptr": torch.zeros(9, dtype=torch.int64),
        "mask_indptr": torch.zeros(9, dtype=torch.int64),
        "device": "cpu",
        "device_core_count": 0,
        "dcp_size": 1,
        "page_size": 1,
    }
    unused = ("sliding_window_size", "window_kv_indptr", "swa_v_head_dim", "_translate_kv_loc", "split_tile_size")
    off = (
        "use_mla",
        "use_pdl",
        "enable_deterministic",
        "static_kv_splits",
        "allow_bidirectional_attention_in_extend",
        "use_sliding_window_kv_pool",
        "use_verify_splitkv",
    )
    for name, value in known.items() | dict.fromkeys(unused).items() | dict.fromkeys(off, False).items():
        setattr(backend, name, value)
    return backend


def make_layer(num_heads, num_kv_heads):
    return SimpleNamespace(
        tp_q_head_num=num_heads,
        tp_k_head_num=num_kv_heads,
        tp_v_head_num=num_kv_heads,
        qk_head_dim=SIZE,
        v_head_dim=SIZE,
        head_dim=SIZE,
        layer_id=0,
        scaling=SCALE,
        logit_cap=0.0,
        logit_capping_method="tanh",
        k_scale=None,
        v_scale=None,
        sliding_window_size=-1,
        xai_temperature_len=-1,
        is_cross_attention=False,
        attn_type="decoder",
    )


def make_batch(mode, slots, extends):
    lengths, new = torch.tensor(LENGTHS), torch.tensor(extends)
    places = [slots[row, end - n : end] for row, (end, n) in enumerate(zip(LENGTHS, extends, strict=True))]
    return ForwardBatch(
        forward_mode=mode,
        batch_size=len(LENGTHS),
        input_ids=torch.zeros(int(new.sum()), dtype=torch.int64),
        req_pool_indices=torch.arange(len(LENGTHS)),
        seq_lens=lengths,
        seq_lens_cpu=lengths,
        seq_lens_sum=sum(LENGTHS),
        out_cache_loc=torch.cat(places),
        positions=torch.cat([torch.arange(end - n, end) for end, n in zip(LENGTHS, extends, strict=True)]),
        extend_seq_lens=new,
        extend_seq_lens_cpu=list(extends),
        extend_prefix_lens=lengths - new,
        extend_prefix_lens_cpu=(lengths - new).tolist(),
        extend_num_tokens=int(new.sum()),
        extend_start_loc=new.cumsum(0) - new,
        num_token_non_padded_cpu=int(new.sum()),
    )


def expected(query, pool, slots, rows):
    """Attention of each query to the positions up to its own: `rows` are (request, position)."""
    out = []
    for heads, (row, position) in zip(query, rows, strict=True):
        seen = slots[row, : position + 1]
        groups = len(heads) // pool.keys.shape[1]
        keys, values = (kv[seen].double().repeat_interleave(groups, dim=1) for kv in (pool.keys, pool.values))
        scores = torch.einsum("hd,lhd->hl", heads.double(), keys) * SCALE
        out.append(torch.einsum("hl,lhd->hd", scores.softmax(-1), values))
    return torch.stack(out)


def difference(is_decode, num_heads, num_kv_heads):
    """How far a pass is from attention in float64."""
    torch.manual_seed(0)
    extends = (1,) * len(LENGTHS) if is_decode else EXTENDS
    slots = (torch.randperm(POOL - 1) + 1)[: 3 * 64].view(3, 64).to(torch.int32)
    pool, layer = Pool(num_kv_heads), make_layer(num_heads, num_kv_heads)
    backend = make_backend(pool, slots, num_heads)
    batch = make_batch(ForwardMode.DECODE if is_decode else ForwardMode.EXTEND, slots.long(), extends)
    whole = add_second_rows(batch, PAIRED)
    num_tokens = len(whole.input_ids)
    query = torch.randn(num_tokens, num_heads * SIZE)
    fresh = torch.randn(2, num_tokens, num_kv_heads * SIZE)

    backend.init_forward_metadata(whole)
    keys, values = (given.view(num_tokens, num_kv_heads, SIZE) for given in fresh)
    run = backend.forward_decode if is_decode else backend.forward_extend
    found = run(query, keys, values, layer, whole)

    own = [(row, p) for row, (end, n) in enumerate(zip(LENGTHS, extends, strict=True)) for p in range(end - n, end)]
    rows = own + [(row, LENGTHS[row] - 1) for row in PAIRED]
    wanted = expected(query.view(num_tokens, num_heads, SIZE), pool, slots.long(), rows)
    written = pool.keys[batch.out_cache_loc] - keys[: len(own)]
    assert float(written.abs().max()) == 0, "the KV of own rows must be written, and no other"
    return float((found.view_as(wanted) - wanted).abs().max())


def main():
    for is_decode in (True, False):
        for num_heads, num_kv_heads in ((4, 2), (2, 2)):
            found = difference(is_decode, num_heads, num_kv_heads)
            print(f"{'decode' if is_decode else 'extend'} {num_heads}/{num_kv_heads} heads {found:.1e}")


if __name__ == "__main__":
    main()

"""Worker models of machines that are not at hand, from figures that others have published.

`h100-qwen3-8b`. Source: capacity.csv of github.com/tgarg01/silybench-data, run of 24 September 2026, Qwen/Qwen3-8B in
bfloat16 on one H100 80GB with vLLM 0.30 (users at a time, output tokens/s):

    chat 128+128       512 users  14,540     decode 128+1024   396 users  13,322     prefill 1024+128  80 users  3,018
    balanced 2048+2048  40 users   2,815     longctx 8192+512    7 users     502

Their KV pool follows from "max_users_kv_cache" (327 users of 1,152 tokens): 376,800 tokens. The five coefficients of
prefill and decode were chosen so that the model gives these throughputs back (docs/simulation.md has both): they stand
for 40,000 prefilled tokens/s (61 % of the H100's 989 TFLOP/s) and 2.7 TB/s of KV. Estimates without a measurement
behind them: the fixed time of a prefill step, hand-off (40 GB/s of a 400 Gbit/s link, 5 ms) and overhead of a call.
KV per token: 36 layers x 2 x 8 heads x 128 x 2 bytes.
"""

from pathlib import Path

from prefillshare.simulation.model import DecodeModel, HandoffModel, PrefillModel, WorkerModel, read_model

H100_QWEN3_8B = WorkerModel(
    name="h100-qwen3-8b",
    source="silybench-data, capacity.csv, 2026-09-24; estimates: fixed prefill step, hand-off, overhead",
    prefill=PrefillModel(step_s=0.008, token_s=2.5e-5, pair_s=1.2e-12, chunk_tokens=8192, pool_tokens=376_800),
    decode=DecodeModel(step_s=0.0065, sequence_s=2.0e-5, context_token_s=5.5e-8, max_running=512, pool_tokens=376_800),
    handoff=HandoffModel(bytes_per_s=40e9, kv_token_bytes=36 * 2 * 8 * 128 * 2, latency_s=0.005),
    overhead_s=0.005,
    page_size=16,
)

PRESETS = {H100_QWEN3_8B.name: H100_QWEN3_8B}


def choose_model(name: str) -> WorkerModel:
    """Return the preset called `name`, or the model in the TOML file of that path.

    Raises: SimulationError when there is neither, ConfigError for a file that cannot be used.
    """
    return PRESETS[name] if name in PRESETS else read_model(Path(name), known=", ".join(PRESETS))

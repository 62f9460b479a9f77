"""How codes lie for the kernels, and which of them this processor can run."""

BLOCK_OUTPUTS = 256
"""Outputs that a kernel works on together; others are added to fill the last block."""
ENTRIES = 256
"""Entries of a Psumbook: all that a byte can name."""
KERNEL_VARIABLE = "PREFILLSHARE_CODEBOOK_KERNEL"
"""Environment variable: the kernel to take in place of the best one; on GPUs, "triton" allows those there are."""
LANES = 64
"""Bytes of a register of AVX-512."""


def has_vbmi() -> bool:
    """Whether numba compiles for a processor that has AVX-512 VBMI."""
    from llvmlite import binding
    from numba.core import config

    if config.CPU_NAME not in (None, "host") or config.CPU_FEATURES is not None:
        return False
    features = binding.get_host_cpu_features()
    return all(features.get(name, False) for name in ("avx512f", "avx512bw", "avx512vbmi"))


def output_order() -> list[int]:
    """Which output of 64 the code at each place belongs to, for the kernel with VBMI.

    Low and high bytes are interleaved within lanes of 16 bytes, eight of them at a time: in this order the 16-bit sums
    come out as outputs 0..31 and 32..63.
    """
    return [place % 16 // 8 * 32 + place // 16 * 8 + place % 8 for place in range(LANES)]

"""The Triton kernels, without a GPU: against the plain product in Triton's interpreter, and compiled for sm_90."""

import os
import subprocess
import sys

import pytest

from prefillshare.codebook import gpu
from prefillshare.codebook.shape import CodebookShape
from tests.codebook.test_kernels import error, exact_product, random_weight

LARGEST_ERROR = 1e-6
SHAPES = [(CodebookShape(), 300, 256), (CodebookShape(num_codebooks=2, segment=8), 128, 256)]
"""Small: the interpreter takes a millisecond for what a program does with a term."""


def print_largest_error() -> None:
    """What the interpreter's process does."""
    import torch

    from prefillshare.codebook.gpu import multiply_on_gpu, pack_for_gpu
    from prefillshare.codebook.kernels.gpu import multiply

    largest = 0.0
    for shape, num_outputs, num_inputs in SHAPES:
        weight = random_weight(shape, num_outputs, num_inputs)
        packed = pack_for_gpu(weight)
        for num_rows, num_parts in ((1, 1), (2, 5)):
            rows = torch.randn(num_rows, num_inputs)
            product = multiply(rows, packed.codes, packed.codebooks, packed.scales, num_parts)[:, :num_outputs]
            largest = max(largest, error(product, exact_product(rows, weight)))
        for num_rows in (0, 3):
            rows = torch.randn(num_rows, num_inputs)
            product = multiply_on_gpu(rows, packed)
            assert product.shape == (num_rows, num_outputs)
            largest = max(largest, error(product, exact_product(rows, weight)) if num_rows else 0.0)
    print(largest)


@pytest.mark.parametrize(("shape", "num_outputs", "num_inputs"), [*SHAPES, (CodebookShape(), 5000, 256)])
def test_many_rows_are_multiplied_by_expanded_blocks(shape: CodebookShape, num_outputs: int, num_inputs: int) -> None:
    import torch

    weight = random_weight(shape, num_outputs, num_inputs)
    rows = torch.randn(gpu._MOST_ROWS_LOOKED_UP + 1, num_inputs)
    product = gpu.multiply_on_gpu(rows, gpu.pack_for_gpu(weight))
    assert product.shape == (len(rows), num_outputs)
    assert error(product, exact_product(rows, weight)) < LARGEST_ERROR
    half = gpu.multiply_on_gpu(rows.bfloat16(), gpu.pack_for_gpu(weight))
    assert half.dtype == torch.bfloat16


def test_the_interpreter_gives_the_plain_product() -> None:
    # Triton decides when a kernel's module is imported.
    reply = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from tests.codebook.test_gpu import *; print_largest_error()"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert reply.returncode == 0, reply.stderr
    assert float(reply.stdout) < LARGEST_ERROR


@pytest.mark.parametrize(("num_codes", "length"), [(1, 4), (2, 8)])
def test_both_kernels_compile_for_sm_90(num_codes: int, length: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from prefillshare.codebook.kernels.gpu import add_products, build_products

    built = {"rows": "*bf16", "codebooks": "*fp32", "products": "*fp32", "num_inputs": "i32", "num_terms": "i32"}
    chosen = {"NUM_CODES": num_codes, "LENGTH": length}
    read = {"codes": "*u8", "scales": "*fp16", "products": "*fp32", "sums": "*fp32"}
    read |= {"num_groups": "i32", "num_terms": "i32", "groups_of_part": "i32"}
    sources = [
        ASTSource(build_products, {**built, **dict.fromkeys(chosen, "constexpr")}, chosen),
        ASTSource(add_products, read),
    ]
    for source in sources:
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert "sm_90" in compiled.asm["ptx"]
        assert compiled.asm["cubin"]

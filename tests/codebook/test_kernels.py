"""Every kernel against the plain product, over the shapes that a codebook weight can have."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prefillshare.codebook import packed as packed_module
from prefillshare.codebook.kernels.layout import KERNEL_VARIABLE, has_vbmi
from prefillshare.codebook.packed import Kernel, best_kernel, pack
from prefillshare.codebook.product import look_up, multiply, multiply_expanded
from prefillshare.codebook.reference import CodebookWeight, dequantise, multiply_by_psumbook
from prefillshare.codebook.shape import CodebookShape
from prefillshare.errors import ModuleError

KERNELS: list[Kernel] = ["vbmi", "floats"] if has_vbmi() else ["floats"]
LARGEST_ERROR: dict[Kernel, float] = {"vbmi": 2e-3, "floats": 1e-6}
"""Norm of the difference over the norm of the product; a product in bfloat16 has 3e-3."""
SHAPES = [
    pytest.param(CodebookShape(), 512, 256, id="m1v4g128"),
    pytest.param(CodebookShape(num_codebooks=2, segment=8), 300, 768, id="m2v8g128, outputs to fill up"),
    pytest.param(CodebookShape(code_bits=6, group=64), 128, 256, id="64 entries"),
    pytest.param(CodebookShape(segment=8, group=32), 256, 64, id="m1v8g32"),
    pytest.param(CodebookShape(num_codebooks=4, segment=16, group=64), 257, 128, id="m4v16g64"),
]


def random_weight(shape: CodebookShape, num_outputs: int, num_inputs: int) -> CodebookWeight:
    torch.manual_seed(7)
    codes = torch.randint(shape.num_entries, (num_outputs, num_inputs // shape.segment, shape.num_codebooks))
    return CodebookWeight(
        codes=codes.to(torch.uint8),
        codebooks=torch.randn(shape.num_codebooks, shape.num_entries, shape.segment).half(),
        scales=(torch.rand(num_outputs, num_inputs // shape.group) + 0.1).half(),
    )


def error(product: Tensor, exact: Tensor) -> float:
    return ((product.double() - exact).norm() / exact.norm()).item()


def exact_product(rows: Tensor, weight: CodebookWeight) -> Tensor:
    return rows.double() @ dequantise(weight, torch.float64).T


@pytest.mark.parametrize(("shape", "num_outputs", "num_inputs"), SHAPES)
def test_the_psumbook_in_plain_torch_gives_the_plain_product(
    shape: CodebookShape, num_outputs: int, num_inputs: int
) -> None:
    weight = random_weight(shape, num_outputs, num_inputs)
    rows = torch.randn(3, num_inputs)

    assert weight.shape == shape
    assert error(multiply_by_psumbook(rows, weight), exact_product(rows, weight)) < 1e-6


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("shape", "num_outputs", "num_inputs"), SHAPES)
def test_a_kernel_gives_the_plain_product(
    shape: CodebookShape, num_outputs: int, num_inputs: int, kernel: Kernel
) -> None:
    weight = random_weight(shape, num_outputs, num_inputs)
    packed, rows = pack(weight, kernel), torch.randn(5, num_inputs)
    exact = exact_product(rows, weight)

    found = error(look_up(rows, packed), exact)
    expanded = error(multiply_expanded(rows, packed), exact)
    print(f"{kernel}: {found:.1e} looked up, {expanded:.1e} expanded")
    assert found < LARGEST_ERROR[kernel]
    assert expanded < 1e-6


@pytest.mark.parametrize("kernel", KERNELS)
def test_sums_of_16_bits_hold_the_worst_inputs(kernel: Kernel) -> None:
    weight = random_weight(CodebookShape(), 256, 256)
    # All codes name the largest entry: each term of the sum is as large as its table's largest.
    codebooks = weight.codebooks.clone()
    codebooks[:, 5] = 10.0
    weight = replace(weight, codes=torch.full_like(weight.codes, 5), codebooks=codebooks)
    rows = torch.stack([torch.full((256,), 1e4), torch.full((256,), -1e-4), torch.zeros(256)])

    product, exact = look_up(rows, pack(weight, kernel)), exact_product(rows, weight)

    for row in range(2):
        assert error(product[row], exact[row]) < LARGEST_ERROR[kernel]
    assert not product[2].any()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_rows", [0, 1, 13, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_rows_keeps_their_type(num_rows: int, dtype: torch.dtype, kernel: Kernel) -> None:
    weight = random_weight(CodebookShape(), 384, 256)
    rows = torch.randn(num_rows, 256).to(dtype)

    product = multiply(rows, pack(weight, kernel))

    assert product.shape == (num_rows, 384)
    assert product.dtype == dtype
    if num_rows:
        assert error(product, exact_product(rows, weight)) < (2e-3 if dtype == torch.float32 else 1e-2)


def test_rows_do_not_change_each_other() -> None:
    packed, rows = pack(random_weight(CodebookShape(), 256, 512)), torch.randn(6, 512)
    rows[1] *= 1e6

    together = look_up(rows, packed)

    assert all(torch.equal(together[i], look_up(rows[i : i + 1], packed)[0]) for i in range(len(rows)))


def test_the_codes_take_no_more_memory_than_on_disk() -> None:
    weight = random_weight(CodebookShape(), 4096, 512)

    sizes: dict[Kernel, int] = {"vbmi": 2, "floats": 4}
    for kernel, bytes_of_scale in sizes.items():
        packed = pack(weight, kernel)
        assert packed.codes.nbytes == weight.codes.nbytes
        assert packed.scales.nbytes == weight.scales.numel() * bytes_of_scale
        kept = (packed.codes, packed.codebooks, packed.scales)
        assert [array.ctypes.data for array in packed.arrays] == [tensor.data_ptr() for tensor in kept]


@pytest.mark.slow
def test_a_processor_without_the_instructions_gets_the_other_kernel() -> None:
    program = (
        "import torch; from tests.codebook.test_kernels import *;"
        "weight, rows = random_weight(CodebookShape(), 256, 256), torch.randn(2, 256);"
        "print(best_kernel(), error(multiply(rows, pack(weight)), exact_product(rows, weight)) < 1e-6)"
    )
    # The same as an older processor to numba, which asks the variable when it is imported.
    reply = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={"NUMBA_CPU_NAME": "haswell", "PATH": "/usr/bin:/bin", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert reply.stdout.split() == ["floats", "True"], reply.stderr
    assert best_kernel() == ("vbmi" if has_vbmi() else "floats")


def test_the_user_may_choose_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, "floats")
    assert best_kernel() == "floats"
    monkeypatch.setenv(KERNEL_VARIABLE, "avx")
    with pytest.raises(ModuleError, match=f"{KERNEL_VARIABLE} is 'avx': on a CPU it may be"):
        best_kernel()
    monkeypatch.setenv(KERNEL_VARIABLE, "vbmi")
    monkeypatch.setattr(packed_module, "has_vbmi", lambda: False)
    with pytest.raises(ModuleError, match="this processor has no AVX-512 VBMI: unset it"):
        best_kernel()


def test_sizes_of_a_weight() -> None:
    shape = CodebookShape()
    weight = random_weight(shape, 512, 256)
    stored = weight.codes.nbytes + weight.scales.nbytes + weight.codebooks.nbytes

    assert shape.bits_per_weight == 2.125
    assert CodebookShape(num_codebooks=2, segment=8).bits_per_weight == 2.125
    assert shape.weight_bytes(512, 256) == stored


@pytest.mark.parametrize("shape", [CodebookShape(), CodebookShape(num_codebooks=2, segment=8)])
@pytest.mark.parametrize("intermediate", [14336, 12288], ids=["Llama 3.1 8B", "Qwen3 8B"])
def test_linear_weights_of_8b_are_7_4_times_smaller_than_in_bfloat16(intermediate: int, shape: CodebookShape) -> None:
    attention = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)]
    layer = [*attention, (intermediate, 4096), (intermediate, 4096), (4096, intermediate)]

    times_smaller = sum(2 * m * n for m, n in layer) / sum(shape.weight_bytes(m, n) for m, n in layer)
    print(f"{times_smaller:.2f} times")
    assert times_smaller >= 7.4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_codebooks": 0}, "codebooks with m = 0: it must be 1 to 4"),
        ({"code_bits": 9}, "codebooks with b = 9: it must be 1 to 8: a code is stored as a byte"),
        ({"segment": 3}, "codebooks with v = 3: it must be 4, 8 or 16"),
        ({"group": 130}, "codebooks with g = 130: it must be a multiple of v = 4, up to 512"),
        ({"group": 4096}, "codebooks with g = 4096: it must be a multiple of v = 4, up to 512"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ModuleError) as refusal:
        CodebookShape(**values)

    assert str(refusal.value) == message


def test_inputs_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ModuleError, match="q_proj has 192 inputs, which do not divide into groups of g = 128"):
        CodebookShape().check_fits(192, "q_proj")

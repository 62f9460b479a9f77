"""llama.cpp's product with Q2_K weights (2.625 bits), through any shared library that has ggml's functions.

No wheel of the registry has ggml as a Python module; that of xllamacpp (an environment of its own is enough: `pip
install xllamacpp`) exports its functions from `xllamacpp.abi3.so`. Weights are quantised by ggml without an importance
matrix and multiplied as they lie: by its dot product of Q2_K with inputs of 8 bits, compiled for what the library was
built for.
"""

import ctypes
from ctypes import c_bool, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

_F32, _Q2_K = 0, 10
"""Numbers of `ggml_type`."""
_BLOCK, _BLOCK_BYTES = 256, 84
"""Weights of a block of Q2_K, and what it takes."""
_WORK_BYTES = 512 * 2**20
"""Each product leaves its inputs of 8 bits in the context."""


class _Parameters(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_FUNCTIONS = {
    "ggml_cpu_init": (None, []),
    "ggml_init": (c_void_p, [_Parameters]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_graph_compute_with_ctx": (c_int, [c_void_p, c_void_p, c_int]),
    "ggml_free": (None, [c_void_p]),
}


def load_ggml(file: Path) -> ctypes.CDLL:
    """Return the library with the types of its functions."""
    library = ctypes.CDLL(str(file))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.ggml_cpu_init()
    return library


class Q2KWeight:
    """A weight in Q2_K, and the graph of its product with so many rows."""

    def __init__(self, library: ctypes.CDLL, plain: Tensor, num_rows: int) -> None:
        num_outputs, num_inputs = plain.shape
        stored = plain.numel() // _BLOCK * _BLOCK_BYTES
        size = stored + 4 * num_rows * (num_inputs + num_outputs) + _WORK_BYTES
        self._library, self._size = library, (num_rows, num_outputs)
        self._context = library.ggml_init(_Parameters(size, None, False))
        weight = library.ggml_new_tensor_2d(self._context, _Q2_K, num_inputs, num_outputs)
        self._rows = library.ggml_new_tensor_2d(self._context, _F32, num_inputs, num_rows)
        source = plain.contiguous()
        made = library.ggml_quantize_chunk(
            _Q2_K, source.data_ptr(), library.ggml_get_data(weight), 0, num_outputs, num_inputs, None
        )
        assert made == stored, f"Q2_K took {made} bytes where {stored} were expected"
        self._product = library.ggml_mul_mat(self._context, weight, self._rows)
        self._graph = library.ggml_new_graph(self._context)
        library.ggml_build_forward_expand(self._graph, self._product)

    def multiply(self, rows: Tensor) -> Tensor:
        """The product, copied out."""
        library = self._library
        ctypes.memmove(library.ggml_get_data(self._rows), rows.data_ptr(), rows.nbytes)
        status = library.ggml_graph_compute_with_ctx(self._context, self._graph, 1)
        assert status == 0, f"ggml answers {status}"
        product = torch.empty(self._size)
        ctypes.memmove(product.data_ptr(), library.ggml_get_data(self._product), product.nbytes)
        return product

    def free(self) -> None:
        """Give its memory back."""
        self._library.ggml_free(self._context)

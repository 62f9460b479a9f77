"""Memory over a file that somebody else cuts: a read there finds zeros, and the process lives on.

The kernel answers an access behind the end of a file, to a page that a full file system cannot give, or to memory that
the machine has lost, with SIGBUS, whose default is to end the process. No look at the file's length can rule that out:
it may be cut between the look and the copy. So there is a handler, for the addresses that are named here and no others:

    access --SIGBUS--> address in a guarded range? --yes--> a private page of zeros takes its place, and is counted
                                                   --no---> whoever handled SIGBUS before handles it

Zeros are no page with a right digest, so what was being read is a miss, and what is written there is seen by nobody.
Whoever owns the range asks for its faults and lets go of the file.

The handler runs at any point of any thread, with or without the GIL: it is compiled here, and calls nothing but the
system. It takes no time until a fault. Other libraries put handlers of their own in its place (UCX, faulthandler):
`keep_handling` is called again and again, and puts it before theirs.
"""

import ctypes
import mmap
import signal
from dataclasses import dataclass
from functools import cache
from typing import Self

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

_MOST_RANGES = 8192
_START, _END, _FAULTS = range(3)
_SA_SIGINFO, _SA_ONSTACK = 0x4, 0x0800_0000
_MAP_FIXED = 0x10
_CODE_OFFSET, _ADDRESS_OFFSET = 8, 16
"""In `siginfo_t`, on all machines with pointers of 8 bytes."""

_LIBRARY = ctypes.CDLL(None, use_errno=True)

_HANDLER = f"""
target triple = "{llvm.get_process_triple()}"

@ranges = global [{_MOST_RANGES} x [3 x i64]] zeroinitializer, align 64
@before = global [256 x i8] zeroinitializer, align 64

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @sigaction(i32, ptr, ptr)
declare i32 @raise(i32)

define void @handle(i32 %signal, ptr %info, ptr %context) {{
entry:
  %code_at = getelementptr i8, ptr %info, i64 {_CODE_OFFSET}
  %code = load i32, ptr %code_at
  %address_at = getelementptr i8, ptr %info, i64 {_ADDRESS_OFFSET}
  %address = load i64, ptr %address_at
  ; A signal that a process has sent has a code of 0 or less, and no address.
  %is_fault = icmp sgt i32 %code, 0
  br i1 %is_fault, label %look, label %foreign
look:
  %number = phi i64 [ 0, %entry ], [ %following, %further ]
  %start_at = getelementptr [{_MOST_RANGES} x [3 x i64]], ptr @ranges, i64 0, i64 %number, i64 {_START}
  %end_at = getelementptr [{_MOST_RANGES} x [3 x i64]], ptr @ranges, i64 0, i64 %number, i64 {_END}
  %faults_at = getelementptr [{_MOST_RANGES} x [3 x i64]], ptr @ranges, i64 0, i64 %number, i64 {_FAULTS}
  %start = load atomic i64, ptr %start_at seq_cst, align 8
  %end = load atomic i64, ptr %end_at seq_cst, align 8
  %is_behind_start = icmp uge i64 %address, %start
  %is_before_end = icmp ult i64 %address, %end
  %is_inside = and i1 %is_behind_start, %is_before_end
  br i1 %is_inside, label %guarded, label %further
further:
  %following = add i64 %number, 1
  %is_last = icmp eq i64 %following, {_MOST_RANGES}
  br i1 %is_last, label %foreign, label %look
guarded:
  %page = and i64 %address, -{mmap.PAGESIZE}
  %page_at = inttoptr i64 %page to ptr
  %mapped = call ptr @mmap(ptr %page_at, i64 {mmap.PAGESIZE}, i32 {mmap.PROT_READ | mmap.PROT_WRITE},
    i32 {mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED}, i32 -1, i64 0)
  %mapped_page = ptrtoint ptr %mapped to i64
  %is_mapped = icmp eq i64 %mapped_page, %page
  br i1 %is_mapped, label %counted, label %foreign
counted:
  %earlier = atomicrmw add ptr %faults_at, i64 1 seq_cst
  ret void
foreign:
  ; The access is repeated after this, and meets the other handler; a signal that was sent has to be sent again.
  %restored = call i32 @sigaction(i32 %signal, ptr @before, ptr null)
  ; Whoever came later may give it back to this handler in the end: then nobody is left but the system's own.
  store i64 0, ptr @before
  br i1 %is_fault, label %done, label %send
send:
  %sent = call i32 @raise(i32 %signal)
  br label %done
done:
  ret void
}}
"""


class _Action(ctypes.Structure):
    """The C library's `struct sigaction`."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint8 * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class _Handler:
    """The compiled handler and the memory that it looks at; children that are forked have both at the same place."""

    engine: llvm.ExecutionEngine
    address: int
    before: int
    """Where it looks for the handler that comes after it."""
    ranges: NDArray[np.uint64]
    free: list[int]
    """Numbers of ranges that are not taken: taking and giving back are one step each, and need no lock."""


class GuardedMap(mmap.mmap):
    """A part of a file as memory, in which no access ends the process."""

    _handler: _Handler
    _number: int

    def __new__(cls, descriptor: int, length: int, *, offset: int) -> Self:
        """Raises: OSError, ValueError."""
        made = super().__new__(cls, descriptor, length, offset=offset)
        made._handler = handler = _compiled()
        try:
            made._number = handler.free.pop()
        except IndexError:
            raise OSError(f"{_MOST_RANGES} parts of files are mapped already") from None
        row = handler.ranges[made._number]
        # In this order, as in `__del__`: the handler never sees an end that does not belong to the start.
        row[_FAULTS], row[_START] = 0, np.frombuffer(made, dtype=np.uint8).ctypes.data
        row[_END] = row[_START] + np.uint64(length)
        keep_handling()
        return made

    @property
    def num_faults(self) -> int:
        """How often the file had no memory for an access; zeros are there now in its place."""
        return int(self._handler.ranges[self._number, _FAULTS])

    def __del__(self) -> None:
        # Before the memory is unmapped: another library's may be at these addresses next.
        if (number := getattr(self, "_number", None)) is not None:
            self._handler.ranges[number, _END] = 0
            self._handler.free.append(number)


def keep_handling() -> None:
    """Put the handler before whichever is there, unless it is there itself."""
    handler, now = _compiled(), _Action()
    _sigaction(None, now)
    if now.handler == handler.address:
        return
    # First: from its first moment on, the handler has to find who comes after it.
    ctypes.memmove(handler.before, ctypes.byref(now), ctypes.sizeof(now))
    _sigaction(_Action(handler=handler.address, flags=_SA_SIGINFO | _SA_ONSTACK), None)


def _sigaction(new: _Action | None, old: _Action | None) -> None:
    refer = (None if action is None else ctypes.byref(action) for action in (new, old))
    if _LIBRARY.sigaction(int(signal.SIGBUS), *refer):
        raise OSError(ctypes.get_errno(), "the handler of SIGBUS cannot be set")


@cache
def _compiled() -> _Handler:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_HANDLER), machine)
    engine.finalize_object()
    place = (ctypes.c_uint64 * (3 * _MOST_RANGES)).from_address(engine.get_global_value_address("ranges"))
    return _Handler(
        engine=engine,
        address=engine.get_function_address("handle"),
        before=engine.get_global_value_address("before"),
        ranges=np.ctypeslib.as_array(place).reshape(_MOST_RANGES, 3),
        free=list(range(_MOST_RANGES))[::-1],
    )

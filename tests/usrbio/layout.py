"""The bytes of a USRBIO ring, as literals (x86-64, glibc, little-endian).

A ring is one shared memory file. With `entries` usable at once it has E = entries + 1 cells:

    0        i32 sqeHead (client)   4  i32 sqeTail (daemon)
    8        i32 cqeHead (daemon)   12 i32 cqeTail (client)
    16       args[E], 56 bytes: iov id[16], iov offset u64, file u64, file offset u64, length u64, userdata u64
    16+56E   cqe[E],  24 bytes: index i32, reserved i32, result i64, userdata u64
    16+80E   sqe[E],  16 bytes: index i32, padding, userdata u64
    16+96E   sem_t,   32 bytes, shared between processes; the daemon initialises it
    16+96E+32 .. spare, so that the whole file has 4144 + 96 E bytes

A head that would meet its tail means full: (head + 1) % E == tail.
"""

import ctypes
import mmap
import struct

SQE_HEAD, SQE_TAIL, CQE_HEAD, CQE_TAIL = 0, 4, 8, 12

_ARGS = struct.Struct("<16sQQQQQ")
_CQE = struct.Struct("<iiqQ")
_SQE = struct.Struct("<i4xQ")


def ring_bytes(entries: int) -> int:
    """Size of the memory file of a ring with `entries` usable entries."""
    return 4144 + 96 * (entries + 1)


def cells_of(size: int) -> int:
    """Cells E of a ring whose file has `size` bytes, as a daemon computes them."""
    return (size - 4096 - 48) // 96


class RingMemory:
    """A ring's mapped memory: cursors and cells, nothing decided here.

    Cursors are single aligned 32-bit loads and stores; on x86-64 these are ordered as the protocol needs, so this
    client is for x86-64 only.
    """

    def __init__(self, memory: mmap.mmap):
        self.memory = memory
        self.cells = cells_of(len(memory))
        self._cursors = {at: ctypes.c_int32.from_buffer(memory, at) for at in (SQE_HEAD, SQE_TAIL, CQE_HEAD, CQE_TAIL)}
        self.semaphore = address_of(memory) + 16 + 96 * self.cells

    def load(self, cursor: int) -> int:
        return self._cursors[cursor].value

    def store(self, cursor: int, value: int) -> None:
        self._cursors[cursor].value = value

    def next(self, cursor: int) -> int:
        return (cursor + 1) % self.cells

    def set_args(self, index: int, *args) -> None:
        """args: iov id (16 bytes), iov offset, file number, file offset, length, userdata."""
        _ARGS.pack_into(self.memory, 16 + 56 * index, *args)

    def set_sqe(self, at: int, index: int, userdata: int) -> None:
        _SQE.pack_into(self.memory, 16 + 80 * self.cells + 16 * at, index, userdata)

    def cqe(self, at: int) -> tuple:
        """(index, result, userdata) of one completion cell."""
        index, _, result, userdata = _CQE.unpack_from(self.memory, 16 + 56 * self.cells + 24 * at)
        return index, result, userdata

    def close(self) -> None:
        """Unmaps the memory. No call on this object is allowed afterwards."""
        self._cursors.clear()
        self.memory.close()


def address_of(memory: mmap.mmap) -> int:
    """Where a mapping begins. Valid until the mapping is closed; it does not keep the mapping open."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))

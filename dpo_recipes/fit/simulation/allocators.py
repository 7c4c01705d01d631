"""What allocators hold for a sequence of tensors that come and go: more than is in use, by how they cut and join.

The rules of each allocator, replayed on sizes alone. On a CPU that is glibc's heap, on CUDA torch's caching allocator.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Protocol

MIB = 2**20


class Allocator(Protocol):
    """Gives out addresses and takes them back; `held` is the most that it ever took from the system, in bytes."""

    held: int

    def allocate(self, size: int) -> int:
        """The address of a new block."""
        ...

    def free(self, address: int) -> None:
        """Take a block back."""
        ...


class FreeBlocks:
    """Free ranges of one address space, found by size: the smallest that is large enough, the lowest of equals."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def add(self, start: int, size: int, walls: frozenset[int] | set[int] = frozenset()) -> None:
        """Add a range and join it with its neighbours; ranges are not joined across an address in `walls`."""
        before = self._ends.get(start) if start not in walls else None
        if before is not None:
            size += self._remove(before)
            start = before
        after = start + size
        if after in self._starts and after not in walls:
            size += self._remove(after)
        bisect.insort(self._by_size, (size, start))
        self._starts[start] = size
        self._ends[start + size] = start

    def take(self, size: int) -> tuple[int, int] | None:
        """Remove the best range of at least `size`; its start and whole size."""
        index = bisect.bisect_left(self._by_size, (size, -1))
        if index == len(self._by_size):
            return None
        found, start = self._by_size[index]
        self._remove(start)
        return start, found

    def take_end(self, end: int) -> tuple[int, int] | None:
        """Remove the range that ends at an address, if it is free."""
        start = self._ends.get(end)
        if start is None:
            return None
        return start, self._remove(start)

    def _remove(self, start: int) -> int:
        size = self._starts.pop(start)
        del self._ends[start + size]
        del self._by_size[bisect.bisect_left(self._by_size, (size, start))]
        return size


class Heap:
    """glibc's heap with the settings of launch/local.py: one arena, no mapping of large blocks, nothing given back.

    malloc.c of glibc 2.36: requests are rounded to 16 bytes with a header of 8 (torch asks for 64-byte alignment on
    top); free neighbours join at once; the best fit among free blocks is cut; else the heap grows at its top.
    """

    _ALIGNMENT = 64

    def __init__(self) -> None:
        self.held = 0
        self._free = FreeBlocks()
        self._used: dict[int, int] = {}
        self._top = 0

    def allocate(self, size: int) -> int:
        """The address of a new block."""
        size = -(-(size + 2 * self._ALIGNMENT) // self._ALIGNMENT) * self._ALIGNMENT
        found = self._free.take(size)
        if found is None:
            start = self._grow(size)
        else:
            start, whole = found
            if whole > size:
                self._free.add(start + size, whole - size)
        self._used[start] = size
        return start

    def _grow(self, size: int) -> int:
        last = self._free.take_end(self._top)
        start = last[0] if last else self._top
        self._top = start + size
        self.held = max(self.held, self._top)
        return start

    def free(self, address: int) -> None:
        """Take a block back."""
        self._free.add(address, self._used.pop(address))


class CachingAllocator:
    """torch's CUDA allocator (c10/cuda/CUDACachingAllocator.cpp, 2.13): blocks in multiples of 512 bytes; up to 1 MiB they
    come from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, above from one of their own in multiples of 2 MiB.
    Segments are kept; the best fit is taken, and cut where what is left is of use."""

    _SMALL, _MIDDLE = MIB, 10 * MIB

    def __init__(self) -> None:
        self.held = 0
        self._pools = {"small": FreeBlocks(), "large": FreeBlocks()}
        self._used: dict[int, tuple[int, str]] = {}
        self._walls: set[int] = {0}

    def allocate(self, size: int) -> int:
        """The address of a new block."""
        size = max(512, -(-size // 512) * 512)
        pool = "small" if size <= self._SMALL else "large"
        start, whole = self._pools[pool].take(size) or self._segment(size)
        left = whole - size
        if left >= 512 if pool == "small" else left > self._SMALL:
            self._pools[pool].add(start + size, left, self._walls)
            whole = size
        self._used[start] = (whole, pool)
        return start

    def _segment(self, size: int) -> tuple[int, int]:
        if size <= self._SMALL:
            whole = 2 * MIB
        elif size < self._MIDDLE:
            whole = 20 * MIB
        else:
            whole = -(-size // (2 * MIB)) * 2 * MIB
        start = self.held
        self.held += whole
        self._walls.add(self.held)
        return start, whole

    def free(self, address: int) -> None:
        """Take a block back."""
        size, pool = self._used.pop(address)
        self._pools[pool].add(address, size, self._walls)


def replay(events: Iterable[tuple[int, int]], allocator: Allocator) -> int:
    """The most that an allocator holds for a sequence of (tensor, size); a size below zero frees the tensor."""
    addresses: dict[int, int] = {}
    for tensor, size in events:
        if size < 0:
            address = addresses.pop(tensor, None)
            if address is not None:
                allocator.free(address)
        else:
            addresses[tensor] = allocator.allocate(size)
    return allocator.held

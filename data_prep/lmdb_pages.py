"""Checks the page structure of an LMDB before the LMDB library follows it.

LMDB maps its file into memory and trusts every page number and offset in it, so that damaged ones
crash the process. The layout is that of liblmdb's mdb.c (struct MDB_meta, MDB_db, MDB_page,
MDB_node) on 64-bit little-endian machines.
"""

import os
import struct

META = 8, 0xBEEFC0DE, 1  # flag of the page, magic, version
BRANCH, LEAF, OVERFLOW, KINDS = 1, 2, 4, 0x6F  # flags of pages, and those that tell kinds apart
BIG = 1  # flag of a node whose value is on overflow pages
HEAD, NODE = 16, 8  # bytes before the content of a page and of a node
MAIN = HEAD + 24 + 48  # where a meta page describes the tree of the records
SMALLEST, LARGEST = 256, 1 << 16  # bytes of a page
LONGEST_KEY = 511
EMPTY = (1 << 64) - 1  # root of a tree without records


def check(path):
    """Raises ValueError, with the reason, if the newest state of the LMDB file `path` is damaged.

    Raises OSError if the file can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:  # read, not mapped, because mapped pages count as memory of the process
        _Pages(descriptor).check()
    except struct.error:
        raise ValueError("the file is cut short") from None
    finally:
        os.close(descriptor)


class _Pages:
    def __init__(self, descriptor):
        self._file = descriptor
        (self.size,) = self._unpack("<I", HEAD + 24)
        if not SMALLEST <= self.size <= LARGEST or self.size & (self.size - 1):
            raise ValueError("it has no valid page size")

    def check(self):
        metas = [self._meta(start) for start in (0, self.size)]
        _, flags, depth, entries, root, self.last = max(metas, key=lambda meta: meta[0])
        if (self.last + 1) * self.size > os.fstat(self._file).st_size:
            raise ValueError("the file is cut short")
        if flags:
            raise ValueError("its records have another layout")
        found = self._entries(root, depth) if root != EMPTY else 0
        if found != entries:
            raise ValueError(f"only {found} of {entries} records can be read")

    def _unpack(self, form, position):
        return struct.unpack(form, os.pread(self._file, struct.calcsize(form), position))

    def _meta(self, start):
        """(transaction, flags, depth, entries, root, last page) of a meta page."""
        (kind,) = self._unpack("<H", start + 10)
        if (kind & META[0], *self._unpack("<II", start + HEAD)) != META:
            raise ValueError("its header is damaged")
        flags, depth = self._unpack("<HH", start + MAIN + 4)
        entries, root, last, transaction = self._unpack("<4Q", start + MAIN + 32)
        return transaction, flags, depth, entries, root, last

    def _entries(self, root, depth):
        """The number of records below the page `root`; each page of the tree is read once."""
        seen, entries, waiting = set(), 0, [(root, 1)]
        while waiting:
            number, level = waiting.pop()
            if not 2 <= number <= self.last or number in seen or level > depth:
                raise ValueError("a page number is damaged")
            seen.add(number)
            leaf = level == depth
            nodes = self._nodes(number, LEAF if leaf else BRANCH)
            if leaf:
                entries += len(nodes)
                for value in nodes:
                    if value is not None:
                        self._check_overflow(*value)
            elif len(nodes) < 2:
                raise ValueError(f"page {number} is damaged")
            else:
                waiting += [(child, level + 1) for child in nodes]
        return entries

    def _nodes(self, number, kind):
        """The page numbers of a branch page, or one entry per record of a leaf page.

        An entry is (first page, bytes) for a value on overflow pages, otherwise None.
        """
        data = os.pread(self._file, self.size, number * self.size)
        own, _, flags, lower, upper = struct.unpack_from("<Q4H", data)
        sound = (own, flags & KINDS) == (number, kind) and lower % 2 == 0
        if not (sound and HEAD < lower <= upper <= self.size):
            raise ValueError(f"page {number} is damaged")
        nodes = []
        for offset in struct.unpack_from(f"<{(lower - HEAD) // 2}H", data, HEAD):
            if not upper <= offset <= self.size - NODE:
                raise ValueError(f"page {number} is damaged")
            low, high, flags, key = struct.unpack_from("<4H", data, offset)
            end = offset + NODE + key
            if kind == BRANCH:
                nodes.append(low | high << 16 | flags << 32)
            else:
                length = low | high << 16
                end += 8 if flags == BIG else length
                if flags not in (0, BIG) or not 0 < key <= LONGEST_KEY:
                    raise ValueError(f"page {number} is damaged")
            if end > self.size:
                raise ValueError(f"page {number} is damaged")
            if kind == LEAF:
                nodes.append((*struct.unpack_from("<Q", data, end - 8), length) if flags else None)
        return nodes

    def _check_overflow(self, number, length):
        pages = -(-(HEAD + length) // self.size)
        if number < 2 or number + pages - 1 > self.last:
            raise ValueError("a page number is damaged")
        own, _, flags, stored = self._unpack("<QHHI", number * self.size)
        if (own, flags & KINDS, stored) != (number, OVERFLOW, pages):
            raise ValueError(f"page {number} is damaged")

"""Decodes records to pixels and Datums in threads, and returns them in order, in bounded memory.

OpenCV releases the GIL while it works, so threads use all processors.
"""

import io
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np

from data_prep import findings, image_files, images, lmdb_io
from data_prep.opencv import cv2

# Images, or bytes of their pixels, per task of a thread: with single images, thread hand-over would
# take a tenth of the time for small photographs.
RUN, RUN_BYTES = 16, 4 << 20
FEW = 4  # images per task where their consumer takes far longer than a hand-over
# Bytes per pixel of a chunk's total, and of an image while its Datum is made.
TOTAL_BYTES, STORED_BYTES = 4 * 3, 4 * 3
# Runs per thread in progress or waiting to be consumed, as far as memory allows: enough to keep the
# threads busy while the consumer waits for the disk.
AHEAD = 8


class Loaded(NamedTuple):
    """An image as it will be stored, or the reason why it can't be used.

    digest   of the stored image, without its label
    uniform  whether all of its pixels have one color
    """

    datum: bytes = b""
    reason: str | None = None
    digest: bytes = b""
    uniform: bool = False


class Chunk(NamedTuple):
    """Consecutive records, and their images as they will be stored.

    images  a Loaded per record; None if the image already occurred, at this size
    total   float32 size x size x 3, BGR, whole numbers: the sum of the middle pixels of its images
            that are stored at the build's own size; None if images were only checked
    """

    records: list
    images: list
    total: np.ndarray | None

    @property
    def memory(self):
        datums = sum(len(image.datum) for image in self.images if image)
        return datums + (0 if self.total is None else self.total.nbytes)


class _Turnstile:
    """Admits runs of images in their order, as far as memory allows.

    Every run that holds memory is older than the one that waits, so that the consumer, which takes
    results in order, can't deadlock.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._next, self._used, self._open = 0, 0, True

    def enter(self, number, memory):
        """Wait for the turn of run `number` and for its memory, in bytes.

        A run that exceeds the limit by itself is admitted alone.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._open
                    or self._next == number
                    and (not self._used or self._used + memory <= image_files.TOGETHER)
                )
            )
            self._next += 1
            self._used += memory
            self._changed.notify_all()

    def leave(self, memory):
        """Release `memory` bytes; a negative number reserves more."""
        with self._changed:
            self._used -= memory
            self._changed.notify_all()

    def close(self):
        """Admit all waiting runs, because their results are no longer needed."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


def chunks(records, options, jobs, start=0, encode=True):
    """Yield Chunks of the records from number `start` on, in order.

    options  BuildOptions
    encode   if not set, images are only checked, without Datums, digests and totals
    """
    size = max(options.sides)

    def prepare(run):
        plans = [
            _Plan(record, options, record.size or options.size) if new else None
            for record, new in run
        ]
        # The images of a run are decoded one at a time.
        memory = max((plan.memory for plan in plans if plan), default=0)
        memory += (TOTAL_BYTES + STORED_BYTES) * size * size * encode
        return ([record for record, _ in run], plans), memory

    def make(prepared):
        run, plans = prepared
        total = np.zeros((options.size, options.size, 3), np.float32) if encode else None
        return Chunk(run, [plan and plan.load(total) for plan in plans], total)

    return _in_order(_runs(records, size, start), prepare, make, jobs)


def each(records, options, jobs, make):
    """Yield (record, make(image), None) per record, in order, or (record, None, reason).

    records  with box, relative and footer as records.Record, and path, a Path or a file's bytes
    options  BuildOptions, of which size, resize and context count
    make     function of an image as it would be stored, before it is encoded (uint8 height x width
             x 3, BGR), that returns an array; threads call it
    reason   why the file can't be used
    """

    def prepare(run):
        plans = [_Plan(record, options, options.size) for record in run]
        size = options.size
        return (run, plans), max(plan.memory for plan in plans) + STORED_BYTES * size * size

    def attempt(plan):
        try:
            return make(plan.image()), None
        except (images.ImageError, OSError) as error:
            return None, str(error)

    runs = (records[first : first + FEW] for first in range(0, len(records), FEW))
    made = _in_order(runs, prepare, lambda run: _Made(run[0], [*map(attempt, run[1])]), jobs)
    with closing(made):
        for part in made:
            for record, (result, reason) in zip(part.records, part.results):
                yield record, result, reason


def image(record, options):
    """The image of one record, as `each` gives it to `make`; raises ImageError or OSError."""
    return _Plan(record, options, options.size).image()


class _Made(NamedTuple):
    """Records, and per record what was made of its image and why nothing was made."""

    records: list
    results: list

    @property
    def memory(self):
        return sum(result.nbytes for result, _ in self.results if result is not None)


def _in_order(runs, prepare, make, jobs):
    """Yield make(prepared) of each run, in order; `jobs` threads make them in advance.

    prepare  function(run) -> prepared, bytes of memory that `make` needs
    make     function(prepared) -> a result with `memory`, the bytes that it takes until the
             consumer asks for the next result
    """

    def work(number, run):
        prepared, memory = prepare(run)
        turnstile.enter(number, memory)
        result = make(prepared)
        turnstile.leave(memory - result.memory)
        return result

    turnstile = _Turnstile()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one image per thread, instead of all threads on one image
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting, rest = deque(), enumerate(runs)
        while True:
            while len(waiting) < AHEAD * jobs and (item := next(rest, None)) is not None:
                waiting.append(pool.submit(work, *item))
            if not waiting:
                break
            result = waiting.popleft().result()
            yield result
            turnstile.leave(result.memory)
    finally:
        turnstile.close()
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _runs(records, size, start):
    """Yield lists of (record, whether its image is new), each a task for one thread."""
    length = max(1, min(RUN, RUN_BYTES // (3 * size * size)))
    seen = {(record.name, record.size) for record in records[:start]}
    for first in range(start, len(records), length):
        run = []
        for record in records[first : first + length]:
            run.append((record, (record.name, record.size) not in seen))
            seen.add((record.name, record.size))
        yield run


def _opened(path):
    return io.BytesIO(path) if isinstance(path, bytes) else image_files.open_plain(path)


class _Plan:
    """How to decode a record's file for a stored size. memory: bytes needed, 0 if it can't be
    decoded."""

    def __init__(self, record, options, size):
        self.memory, self._record, self._options, self._reason = 0, record, options, None
        self._size = size
        self._box = record.box and images.grown(record.box, options.context)
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(_opened(record.path))
                self._scale, self.memory = self._needs(image_files.header(self._file))
                opened.pop_all()
            except (images.ImageError, OSError) as error:
                self._reason = str(error)

    def _needs(self, header):
        """The scale of decoding and the bytes of memory it needs."""
        sides = (header.width, header.height)
        box = self._scaled(*sides) if self._record.relative else self._box
        scale = images.decode_scale(header, self._size, box)
        return scale, header.check_memory(scale)

    def _box_in(self, image, scale):
        """The box in pixels of the image, decoded at 1/scale."""
        if not self._record.relative:
            return [edge / scale for edge in self._box]
        height, width = image.shape[:2]
        return self._scaled(width, height)

    def _scaled(self, width, height):
        """A relative box in pixels of an image of this size."""
        return [share * side for share, side in zip(self._box, (width, height) * 2)]

    def image(self):
        """The image as it will be stored, before it is encoded; raises ImageError or OSError."""
        if self._reason:
            raise images.ImageError(self._reason)
        record, options, scale = self._record, self._options, self._scale
        with self._file:
            image = images.decode(self._file.read(), scale)
        # Rounded up, so that no partial row of the footer remains.
        image = images.without_footer(image, -(-record.footer // scale))
        if self._box:
            image = images.crop(image, self._box_in(image, scale))
        return images.resize(image, self._size, options.resize)

    def load(self, total):
        """The Loaded; adds its pixels to total. If total is None, no Datum is made."""
        record, options = self._record, self._options
        try:
            image = self.image()
        except (images.ImageError, OSError) as error:
            return Loaded(reason=str(error))
        if total is None:
            return Loaded()
        if self._size == options.size:
            # Summed here, while the pixels are in the processor's cache.
            cv2.accumulate(images.center(image, options.size), total)
        data = lmdb_io.stored(image, options.encoded)
        return Loaded(
            lmdb_io.image_datum(data, image.shape, options.encoded, record.label),
            digest=findings.digest(data),
            uniform=findings.is_uniform(image),
        )

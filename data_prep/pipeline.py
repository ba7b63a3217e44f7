"""Records to pixels and Datums: decoded in threads, given in order, in bounded memory.

OpenCV lets go of Python's lock while it works, so threads use all processors.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from data_prep import image_files, images, lmdb_io
from data_prep.opencv import cv2

# A thread is given so many images at a time, or bytes of their pixels: image by image, what threads
# have to say to each other would take a tenth of the time of small photographs.
RUN, RUN_BYTES = 16, 4 << 20
# Runs per thread that are in work or wait to be taken, as far as memory allows: enough to keep the
# threads at work while the taker waits for the disk.
AHEAD = 8


class Loaded(NamedTuple):
    """An image as it will be stored, or why it can't be used.

    total  float32 size x size x 3, BGR, whole numbers: the sum of the pixels in the middle of this
           image and of those before it back to the last one with a total; None with most images
    """

    datum: bytes = b""
    reason: str | None = None
    total: np.ndarray | None = None

    @property
    def memory(self):
        return len(self.datum) + (0 if self.total is None else self.total.nbytes)


class _Turnstile:
    """Lets runs of images in one by one, in their order, as far as their memory fits.

    Every run that holds memory is older than the one that waits, so that the reader of the results,
    who takes them in order, always gets on.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._next, self._used, self._open = 0, 0, True

    def enter(self, number, memory):
        """Wait for run `number`'s turn and room for its bytes. One that is too large alone enters
        alone.
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
        """So many bytes are free again; if negative, as many more are in use."""
        with self._changed:
            self._used -= memory
            self._changed.notify_all()

    def close(self):
        """Nobody takes results any more: let all through."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


def loaded(records, options, jobs, encode=True):
    """Yield (record, Loaded) of each record, in order; the last one's has a total.

    options  the manifest's: size, resize, encoded, context
    encode   if not set, images are only looked at: Datums and totals are left out
    """
    size = options["size"]

    def work(number, run):
        plans = [_Plan(record, options) for record in run]
        # One image of a run is decoded at a time.
        memory = max(plan.memory for plan in plans) + 4 * 3 * size * size * encode
        turnstile.enter(number, memory)
        total = np.zeros((size, size, 3), np.float32) if encode else None
        results = [plan.load(total) for plan in plans]
        results[-1] = results[-1]._replace(total=total)
        turnstile.leave(memory - sum(result.memory for result in results))
        return results

    turnstile = _Turnstile()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one image per thread, instead of all threads on one image
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting, rest = deque(), enumerate(_runs(records, size))
        while True:
            while len(waiting) < AHEAD * jobs and (item := next(rest, None)) is not None:
                waiting.append((item[1], pool.submit(work, *item)))
            if not waiting:
                break
            run, future = waiting.popleft()
            results = future.result()
            yield from zip(run, results)
            turnstile.leave(sum(result.memory for result in results))
    finally:
        turnstile.close()
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _runs(records, size):
    """Yield lists of records, each for one thread at a time."""
    length = max(1, min(RUN, RUN_BYTES // (3 * size * size)))
    for start in range(0, len(records), length):
        yield records[start : start + length]


class _Plan:
    """How a record's file will be decoded: `memory` bytes are needed, none if it can't be."""

    def __init__(self, record, options):
        self.memory, self._record, self._options, self._reason = 0, record, options, None
        self._box = record.box and images.grown(record.box, options["context"])
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(image_files.open_plain(record.path))
                self._scale, self.memory = self._needs(image_files.header(self._file))
                opened.pop_all()
            except (images.ImageError, OSError) as error:
                self._reason = str(error)

    def _needs(self, header):
        """The scale and the bytes of memory of decoding."""
        scale = images.decode_scale(header, self._options["size"], self._box)
        memory = header.memory(scale)
        if memory > image_files.LARGEST:
            raise images.ImageError(
                f"{header.width} x {header.height} pixels: decoding takes {memory >> 20} MB, and "
                f"at most {image_files.LARGEST >> 20} are allowed"
            )
        return scale, memory

    def load(self, total):
        """The Loaded; its pixels are added to total. Without one (None) there is no Datum."""
        if self._reason:
            return Loaded(reason=self._reason)
        record, options, scale = self._record, self._options, self._scale
        try:
            with self._file:
                image = images.decode(self._file.read(), scale)
            # Rounded up: a part of a row of the footer is not left.
            image = images.without_footer(image, -(-record.footer // scale))
            if self._box:
                image = images.crop(image, [edge / scale for edge in self._box])
            image = images.resize(image, options["size"], options["resize"])
        except (images.ImageError, OSError) as error:
            return Loaded(reason=str(error))
        if total is None:
            return Loaded()
        # Here, while the pixels are in the processor's cache.
        cv2.accumulate(images.centre(image, options["size"]), total)
        return Loaded(lmdb_io.image_datum(image, options["encoded"], record.label))

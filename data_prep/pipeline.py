"""Records to pixels and Datums: decoded in threads, given in order, in bounded memory.

OpenCV lets go of Python's lock while it works, so threads use all processors.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from data_prep import image_files, images, lmdb_io

# Images per thread that are in flight or wait to be taken, as far as memory allows: enough to keep
# the threads at work while the taker waits for the disk.
AHEAD = 64


class Loaded(NamedTuple):
    """An image as it will be stored, or why it can't be used."""

    pixels: np.ndarray | None = None  # uint8 size x size x 3: what the mean is made of
    datum: bytes = b""
    reason: str | None = None


class _Turnstile:
    """Lets images in one by one, in their order, as far as their memory fits.

    Every image that holds memory is older than the one that waits, so that the reader of the
    results, who takes them in order, always gets on.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._next, self._used, self._open = 0, 0, True

    def enter(self, number, memory):
        """Wait for image `number`'s turn and room for its bytes. One that is too large alone
        enters alone.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._open
                or self._next == number
                and (not self._used or self._used + memory <= image_files.TOGETHER)
            )
            self._next += 1
            self._used += memory
            self._changed.notify_all()

    def leave(self, memory):
        with self._changed:
            self._used -= memory
            self._changed.notify_all()

    def close(self):
        """Nobody takes results any more: let all through."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


def loaded(records, options, jobs, encode=True):
    """Yield (record, Loaded) of each record, in order.

    options  the manifest's: size, resize, encoded, context
    encode   if not set, Datums are left out
    """

    def work(number, record):
        try:
            plan = _Plan(record, options)
        except (images.ImageError, OSError) as error:
            turnstile.enter(number, 0)
            return Loaded(reason=str(error)), 0
        turnstile.enter(number, plan.memory)
        result = plan.load(encode)
        kept = len(result.datum) + (0 if result.reason else result.pixels.nbytes)
        turnstile.leave(plan.memory - kept)
        return result, kept

    turnstile = _Turnstile()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one image per thread, instead of all threads on one image
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting, rest = deque(), enumerate(records)
        while True:
            while len(waiting) < AHEAD * jobs and (item := next(rest, None)) is not None:
                waiting.append((item[1], pool.submit(work, *item)))
            if not waiting:
                break
            record, future = waiting.popleft()
            result, kept = future.result()
            yield record, result
            turnstile.leave(kept)
    finally:
        turnstile.close()
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


class _Plan:
    """How a record's file will be decoded: `memory` bytes are needed. ImageError if it can't be."""

    def __init__(self, record, options):
        self._record, self._options = record, options
        self._box = record.box and images.grown(record.box, options["context"])
        self._file = image_files.open_plain(record.path)
        try:
            header = image_files.header(self._file)
            self._scale = images.decode_scale(header, options["size"], self._box)
            self.memory = header.memory(self._scale)
            if self.memory > image_files.LARGEST:
                raise images.ImageError(
                    f"{header.width} x {header.height} pixels: decoding takes "
                    f"{self.memory >> 20} MB, and at most {image_files.LARGEST >> 20} are allowed"
                )
        except BaseException:
            self._file.close()
            raise

    def load(self, encode):
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
        datum = lmdb_io.image_datum(image, options["encoded"], record.label) if encode else b""
        pixels = images.centre(image, options["size"])
        # A view would keep the whole of a long image.
        return Loaded(pixels if pixels.size == image.size else pixels.copy(), datum)

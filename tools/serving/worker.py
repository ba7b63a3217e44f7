"""One thread that owns a model, and the photographs that wait for it."""

import queue
import threading
from concurrent.futures import Future
from contextlib import contextmanager

from tools.recognition import photographs, recognize


class Busy(Exception):
    """As many photographs as allowed are waiting already."""


class Worker:
    """Answers for photographs, one after the other, in the thread that opened the model.

    Caffe keeps its mode per thread, so that the model is opened there. Any thread may call
    `answer`. Photographs are decoded one at a time, in their callers' threads, while the model
    computes another one; memory is that of one decoding, and of one input per waiting photograph.

    open_model      function without arguments that returns a recognition.model.Model
    rule, top       as recognition.recognize.recognize; top is limited to the number of classes
    crops           as there
    places          photographs inside at a time: read, decoded, waiting or computed
    """

    def __init__(self, open_model, *, rule, top, crops, places):
        self._open, self._rule, self._top, self._crops = open_model, rule, top, crops
        self.places = places
        self._free, self._decoding = threading.Semaphore(places), threading.Lock()
        self._jobs, self._opened = queue.SimpleQueue(), Future()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.model = None

    def start(self):
        """Open the model; raises what opening it raises."""
        self._thread.start()
        self.model = self._opened.result()

    @property
    def alive(self):
        return self._thread.is_alive() and self.model is not None

    @property
    def top(self):
        return min(self._top, self.model.hierarchy.sizes[0])

    def answer(self, name, read):
        """The answers.Answer for a photograph.

        name: for the answer. read: function that returns the file's bytes. Raises Busy, ImageError,
        and what `read` and the model raise.
        """
        with self._place():
            with self._decoding:
                blob = photographs.blob_of(read(), self.model.preprocessing, crops=self._crops)
            done = Future()
            self._jobs.put((name, blob, done))
            return done.result()

    @contextmanager
    def _place(self):
        if not self._free.acquire(blocking=False):
            raise Busy
        try:
            yield
        finally:
            self._free.release()

    def _run(self):
        try:
            model = self._open()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(model)
        while (job := self._jobs.get()) is not None:
            name, blob, done = job
            try:
                (found,) = recognize.recognize(
                    model, [name], blob, rule=self._rule, top=self.top, crops=self._crops
                )
            except Exception as error:  # the caller's, who reports it; the next one may succeed
                done.set_exception(error)
            else:
                done.set_result(found)

    def close(self):
        """End the thread, after the photographs that wait already."""
        self._jobs.put(None)
        self._thread.join()

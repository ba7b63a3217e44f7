"""Writes curves of training logs as TensorBoard's event files."""

from pathlib import Path

from data_prep.common.errors import UserError


class EventFiles:
    """Event files in folder/<name of a training>/{train,test}; update() adds what is new.

    The two phases are runs of their own, so that TensorBoard draws both curves of a loss in one
    panel. A second writer of one folder replaces the curves of the first in what is shown.
    """

    def __init__(self, folder):
        self._folder, self._writers, self._written = Path(folder), {}, {}

    def update(self, name, log):
        """Write the values of a caffe_log.Log that were not written yet."""
        for (phase, output), (iterations, values) in log.series.items():
            place = name, phase, output
            after = self._written.get(place, -1)
            for iteration, value in zip(iterations.tolist(), values.tolist()):
                if iteration > after:
                    self._writer(name, phase).add_scalar(output, value, iteration)
                    self._written[place] = iteration
        for writer in self._writers.values():
            writer.flush()

    def close(self):
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name, phase):
        if (name, phase) not in self._writers:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                raise UserError(
                    "TensorBoard's files need the package tensorboardX: run `make setup`"
                ) from None
            folder = self._folder / name / phase
            # purge_step: TensorBoard forgets what an earlier writer of this folder wrote.
            self._writers[name, phase] = SummaryWriter(str(folder), purge_step=0)
        return self._writers[name, phase]

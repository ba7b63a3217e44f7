"""Photographs through a model to answers, as a stream."""

from data_prep.common.cores import cores_of_process
from tools.recognition import answers, photographs as files_of

BATCH = 32  # images per computation of the net


def default_jobs():
    """Threads that decode: twice the processors, because they also wait for the interpreter."""
    return 2 * cores_of_process()


def per_batch(batch, crops):
    """Photographs per batch, so that the net computes at most `batch` images at once, if it can."""
    return max(1, batch // crops)


def recognize(model, names, blob, *, rule="fine", top=3, crops=1):
    """[answers.Answer] of N images.

    names: N strings. blob: float32, (N * crops) x 3 x h x w, of Preprocessing.blob. rule: of
    decode.RULES. top: best paths per answer.
    """
    probabilities = model.probabilities(blob, crops)
    return answers.of(names, model.hierarchy, probabilities, rule, top)


def stream(model, photographs, *, rule, top, crops=1, batch=BATCH, jobs=None):
    """Yield ([answers.Answer], [(Photograph, reason)]) per batch, in the order of the photographs.

    The second list has the files that can't be used.
    """
    size = per_batch(batch, crops)
    jobs = jobs or default_jobs()
    for part, bad in files_of.batches(photographs, model.preprocessing, crops, jobs, size):
        if part is None:
            yield [], bad
            continue
        names = [each.name for each in part.photographs]
        yield recognize(model, names, part.blob, rule=rule, top=top, crops=crops), bad

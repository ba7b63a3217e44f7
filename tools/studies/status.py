"""The state of a study in words: its cells, and what the missing ones cost."""

from tools import live, snapshots, solver_net
from tools.studies import progress, records, work


def word(known):
    """One word on a progress.Known."""
    if known.record is None:
        begun = (known.place.work / work.BEGUN).is_file()
        return "not possible" if known.missing else "begun" if begun else "missing"
    return known.record.status


def more(state, known):
    """What there is to say about a progress.Known of a State, after its name."""
    record = known.record
    if record is None:
        return _begun(known) if word(known) == "begun" else ""
    changed = "; code changed since" if state.changed(known) else ""
    if known.lacks:
        changed += f"; evaluated without {', '.join(known.lacks)}"
    if record.status == records.DIVERGED:
        return f": {record.diverged}{changed}"
    fine = record.scores.levels[0].own.top1
    speed = record.images_per_second
    images = f", {speed:.3g} images/s" if speed else ""
    took = live.duration(record.seconds)
    return f": {fine:.2%} on {record.scores.split}, {took}{images}{changed}"


def _begun(known):
    solver = solver_net.read_solver(known.place.solver)
    newest = next((one for one in snapshots.of_solver(solver) if not one.problem()), None)
    at = newest.iteration if newest else 0
    return f": resumes at iteration {at} of {solver.max_iter}"


def measures(state):
    """A line on the measures that ended cells lack, if there are any."""
    lacking, again = [known for known in state.wanted() if known.lacks], state.again()
    if not lacking:
        return
    names = [name for name in state.study.measures if any(name in one.lacks for one in lacking)]
    lost = len(lacking) - len(again)
    yield (
        f"evaluated without {', '.join(names)}: {len(lacking)} cells"
        + (f"; `run` evaluates {len(again)} again, from their final weights" if again else "")
        + (f"; {lost} can't be: their final weights or data are not here" if lost else "")
    )


def cost(state, machine, jobs, device="CPU"):
    """Lines on the cost of what is missing."""
    found = state.wanted()
    costs = progress.Costs(found, machine.text, device, jobs)
    missing = [one.cell for one in found if one.record is None]
    later = state.later()
    if not missing and not later:
        return
    seconds, unknown = costs.total(missing + later)
    count = len(missing) + len(later)
    where = "this CPU" if device == "CPU" else "this GPU"
    if unknown == count:
        yield f"missing: {count} cells; their cost on {where} is known when one has ended"
        return
    yield (
        f"missing: {count} cells, about {live.duration(seconds)} on {where} with --jobs {jobs}"
        + (f", and {unknown} of them of unknown cost" if unknown else "")
    )

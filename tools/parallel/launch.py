"""Starts the ranks of a training on this machine and reports their result."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from data_prep.common import files
from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from tools import snapshots, solver_net
from tools.parallel import parents, rank

INSTALL = "`make setup` installs it"
LOOK = 1  # seconds between two looks at mpiexec's children
GRACE = 10  # seconds in which mpiexec may end after them


def check(args):
    """Raise UserError for problems that would end every rank."""
    solver = solver_net.read_solver(args.solver)
    solver_net.read_net(solver)
    if args.snapshot:
        files.existing(args.snapshot, "snapshot")
        snapshots.check_resumable(args.snapshot)
    for path in args.weights.split(",") if args.weights else []:
        files.existing(path.strip(), "weights")
    if args.gpus:
        from tools.pycaffe import caffe

        if not caffe.has_nccl():
            raise UserError(
                "this Caffe was built without NCCL and can't train on several GPUs: "
                "`docker/build_caffe.sh --cuda 13` builds one that can; --processes "
                "trains on the CPU"
            )
        for number in args.gpus:
            solver_net.try_gpu(number, "--gpus")
    return solver


def run(args, script):
    """Run `script` with this process's own arguments as all ranks; returns when they have ended.

    Ctrl-C and SIGTERM are passed on once: rank 0 saves, and all ranks end. The ranks have their own
    session, because a terminal's Ctrl-C would otherwise reach them twice, which makes mpiexec kill
    them. Raises UserError if a rank failed.
    """
    solver = check(args)
    count = len(args.gpus) if args.gpus else args.processes
    environment = dict(os.environ)
    # As many threads as there are cores, or the ranks' threads wait for each other.
    if not {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} & environment.keys():
        environment["OMP_NUM_THREADS"] = str(max(1, cores_of_process() // count))
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder, "errors")
        status = _run_ranks(count, script, environment | {rank.ERRORS: str(errors)})
        if errors.exists():
            sys.stderr.write(errors.read_text(encoding="utf-8"))
    if status is None:
        raise UserError(
            "MPI's process manager (hydra_pmi_proxy) has ended before the ranks, and with it the "
            f"training{_going_on(solver)}"
        )
    if status:
        raise UserError(f"a rank failed, see above, and with it the training{_going_on(solver)}")


def _run_ranks(count, script, environment):
    """Start the ranks and wait for them: mpiexec's exit status, or None as _wait."""
    ranks = subprocess.Popen(
        [_mpiexec(), "-n", str(count), sys.executable, str(script), *sys.argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # when this process has been killed
        preexec_fn=lambda: parents.signal_at_parents_end(signal.SIGINT),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ranks.send_signal(signal.SIGINT))
    return _wait(ranks)


def _wait(mpiexec):
    """The exit status of mpiexec, or None where the process manager that it waits for has ended.

    MPICH's mpiexec starts hydra_pmi_proxy, which starts the ranks. Without the proxy, mpiexec waits
    forever and passes on no signal, so it is killed here; the ranks end by themselves (rank.py).
    """
    managed = False
    while True:
        try:
            return mpiexec.wait(timeout=LOOK)
        except subprocess.TimeoutExpired:
            running = bool(parents.children(mpiexec.pid))
        if managed and not running:
            break
        managed = managed or running
    try:
        return mpiexec.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        mpiexec.kill()
        mpiexec.wait()
        return None


def _mpiexec():
    """MPICH's, beside this Python, or the system's."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise UserError(f"mpiexec not found: {INSTALL}")
    return found


def _going_on(solver):
    """How to resume from the newest complete snapshot, if one exists."""
    snapshot = snapshots.newest(solver)
    return f": --snapshot {snapshot.state} resumes from there" if snapshot else ""

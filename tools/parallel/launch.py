"""Start the ranks of a training on this machine, and say what became of them."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from data_prep.common import files
from data_prep.common.errors import UserError
from tools import solver_net

INSTALL = "`make setup` installs it"


def check(args):
    """Raise UserError for what would end every rank."""
    solver = solver_net.read_solver(args.solver)
    solver_net.read_net(solver)
    if args.snapshot:
        files.existing(args.snapshot, "snapshot")
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

    Ctrl-C and SIGTERM are handed on once: rank 0 saves, and all end. The ranks have a session of
    their own, or a terminal's Ctrl-C would come to them twice, which mpiexec takes as an order to
    kill. Raises UserError if a rank failed.
    """
    solver = check(args)
    count = len(args.gpus) if args.gpus else args.processes
    environment = dict(os.environ)
    # As many threads as there are cores, or the ranks' threads wait for each other.
    environment.setdefault(
        "OPENBLAS_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count))
    )
    ranks = subprocess.Popen(
        [_mpiexec(), "-n", str(count), sys.executable, str(script), *sys.argv[1:]],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_stop_with_parent,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ranks.send_signal(signal.SIGINT))
    status = ranks.wait()
    if status:
        raise UserError(f"a rank failed, see above, and with it the training{_going_on(solver)}")


def _stop_with_parent():
    """Linux sends this process Ctrl-C's signal when its parent has been killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _mpiexec():
    """MPICH's, beside this Python, or the system's."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise UserError(f"mpiexec is not there: {INSTALL}")
    return found


def _going_on(solver):
    """How to go on from the newest state, if there is one."""
    try:
        state = solver_net.newest_snapshot(solver).with_suffix(".solverstate")
    except UserError:
        return ""
    return f": --snapshot {state} goes on from there" if state.is_file() else ""

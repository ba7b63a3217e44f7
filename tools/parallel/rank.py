"""One rank of a training: a process that mpiexec has started, with its own share of the records."""

import os
import signal
import sys
import traceback

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from python_layers import communicator
from tools import solver_net
from tools.parallel import parents

# How MPICH and its relatives, others by PMIx, and Open MPI tell a process which rank it is.
RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
PROXY = "hydra_pmi_proxy"  # the parent of MPICH's ranks


def is_rank():
    return any(name in os.environ for name in RANK_VARIABLES)


# Names, in the environment of a rank, the file for the sentences of ranks that fail.
ERRORS = "TRAIN_PARALLEL_ERRORS"


class Stopped(Exception):
    """All ranks leave the training before an iteration."""


def run(args):
    """This process's part of the training that args describe; ends all ranks if it fails.

    args: solver, weights, snapshot, gpus as tools/train_parallel.py has them.
    """
    if parents.name_of_parent() == PROXY:
        # It can neither be asked to end nor end by itself where it waits for other ranks.
        parents.signal_at_parents_end(signal.SIGKILL)
    # MPICH would copy from one rank's memory to another's, which containers forbid.
    os.environ.setdefault("MPIR_CVAR_CH4_CMA_ENABLE", "0")
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    try:
        _train(args, comm)
    except Exception as error:
        from tools.pycaffe import caffe

        expected = isinstance(error, (UserError, ValueError, OSError, caffe.Error))
        text = "" if expected else traceback.format_exc()
        message = str(error) if expected else "this is a fault of the program, see above"
        _report(f"{text}error: rank {comm.rank} of {comm.size}: {message}\n")
        comm.Abort(1)


def _report(text):
    """Pass on why this rank ends. The launcher prints the file that it names, since MPI's process
    manager may drop what a rank prints just before it aborts.
    """
    path = os.environ.get(ERRORS)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    else:  # started by another mpiexec
        sys.stderr.write(text)
        sys.stderr.flush()


def own_gpu(gpus, place):
    """Let this process see only one GPU, which is then number 0 for all libraries.

    gpus: numbers among those that can be seen;  place: which of these is this process's.
    """
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    number = gpus[place]
    if seen and number >= len(seen):
        raise UserError(f"--gpus names GPU {number}, but CUDA_VISIBLE_DEVICES shows {len(seen)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[number] if seen else str(number)


def own_solver(solver, net, rank):
    """The SolverParameter of one rank; net: its NetParameter.

    Rank 0 alone prints, tests and saves. Caffe can't send a layer's gradient ahead of the others'
    where it isn't final after one backward pass, or belongs to several layers.
    """
    own = type(solver)()
    own.CopyFrom(solver)
    shared = any(param.name for layer in net.layer for param in layer.param)
    if own.iter_size > 1 or shared:
        own.layer_wise_reduce = False
    if rank:
        for field in (
            "test_iter",
            "test_interval",
            "test_state",
            "test_net",
            "test_net_param",
            "snapshot",
            "display",
        ):
            own.ClearField(field)
    return own


def _train(args, comm):
    if args.gpus:
        beside = comm.Split_type(_shared_memory())  # the ranks of this machine
        if beside.size > len(args.gpus):
            raise UserError(
                f"{beside.size} processes on one machine and {len(args.gpus)} GPUs: "
                "start one per GPU"
            )
        own_gpu(args.gpus, beside.rank)
    from tools.parallel import transports
    from tools.pycaffe import caffe

    # Warnings and errors of all ranks; what rank 0 does is also what `caffe train` would print.
    level = int(os.environ["GLOG_minloglevel"])
    caffe.init_log(level if comm.rank == 0 else max(level, 1), True)
    if args.gpus:
        caffe.set_device(0)
        caffe.set_mode_gpu()
    # Data layers deal out their records by these.
    caffe.set_solver_count(comm.size)
    caffe.set_solver_rank(comm.rank)
    caffe.set_multiprocess(True)

    transport = transports.Nccl(comm) if args.gpus else transports.Mpi(comm)
    solver = _solver(args, comm.rank)
    transport.join(solver)
    if comm.rank == 0:
        caffe.log(
            f"{comm.size} ranks, one {'GPU' if args.gpus else 'process'} each: every "
            f"iteration takes {comm.size} batches"
        )
    _iterate(solver, transport, comm)


def _shared_memory():
    from mpi4py import MPI

    return MPI.COMM_TYPE_SHARED


def _solver(args, rank):
    """This rank's solver, with the weights or the snapshot."""
    from tools.pycaffe import caffe

    message = solver_net.read_solver(args.solver)
    message = own_solver(message, solver_net.read_net(message), rank)
    with prototxt.as_file(message) as path:
        solver = caffe.get_solver(path)
    if args.snapshot:
        solver.restore(args.snapshot)
    for weights in args.weights.split(",") if args.weights and rank == 0 else []:
        for net in (solver.net, *solver.test_nets):
            net.copy_from(weights.strip())
    return solver


def _iterate(solver, transport, comm):
    """Train to the end, or until rank 0 is asked to stop by Ctrl-C or SIGTERM.

    Rank 0 saves then, as `caffe train` does. It decides for all, so that no rank waits for one
    that has left.
    """
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.append(True))

    def start():
        if comm.bcast(bool(asked)):
            raise Stopped
        communicator.use(transport)

    solver.add_callback(start, lambda: communicator.use(communicator.ALONE))
    try:
        if comm.rank == 0:
            solver.solve()
        else:
            solver.step(solver.param.max_iter - solver.iter)
    except Stopped:
        if comm.rank == 0:
            solver.snapshot()
            print(f"stopped before iteration {solver.iter}, and saved", file=sys.stderr)

"""Finds the snapshots of a training on disk, and checks whether they are complete.

Caffe writes two files per snapshot, PREFIX_iter_N.caffemodel (weights) and
PREFIX_iter_N.solverstate (iteration, momentum, the model's path), with `snapshot_format: HDF5` both
ending in `.h5`. A full disk, a crash of the machine, or a Caffe that writes in place can leave
truncated files, so every file is checked before it is used: the lengths and field numbers of
protobuf messages, and the end of file stated in the header of an HDF5 file.
"""

import mmap
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import UserError

MODEL, STATE = ".caffemodel", ".solverstate"
HDF5 = ".h5"
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
LONGEST_VARINT = 10  # bytes


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: the iteration that comes next, and two files, of which one may be missing."""

    iteration: int
    model: Path
    state: Path

    def problem(self):
        """Why training can't resume from it, in one clause; None if it can."""
        return problem(self.model) or problem(self.state)


class _Damaged(ValueError):
    """The bytes end or are invalid where a field is expected."""


def problem(path):
    """Why a caffemodel or solverstate (either format) can't be read, in one clause, or None."""
    path = Path(path)
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes)"
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        try:
            if path.suffix == HDF5 or content[: len(HDF5_SIGNATURE)] == HDF5_SIGNATURE:
                _check_hdf5(content)
            else:
                _check_message(content, _is_state(path))
        except _Damaged as error:
            kind = "solverstate" if _is_state(path) else "caffemodel"
            return f"{path} is not a {kind}, or is truncated ({error})"
    return None


def of_solver(solver):
    """The solver's Snapshots, newest first, complete or not."""
    prefix = Path(solver.snapshot_prefix)
    name = re.compile(
        rf"{re.escape(prefix.name)}_iter_(\d{{1,18}})({MODEL}|{STATE})({re.escape(HDF5)})?"
    )
    names = [match for path in prefix.parent.glob("*") if (match := name.fullmatch(path.name))]
    found = {(int(match[1]), match[3] or "") for match in names}
    return [
        Snapshot(
            iteration,
            *(
                prefix.parent / f"{prefix.name}_iter_{iteration}{kind}{suffix}"
                for kind in (MODEL, STATE)
            ),
        )
        for iteration, suffix in sorted(found, reverse=True)
    ]


def newest(solver):
    """The newest Snapshot whose model and state are both complete, or None.

    Prints to stderr which newer ones were skipped, and why.
    """
    for snapshot in of_solver(solver):
        reason = snapshot.problem()
        if reason is None:
            return snapshot
        print(
            f"note: the snapshot of iteration {snapshot.iteration} is skipped: {reason}",
            file=sys.stderr,
        )
    return None


def newest_model(solver):
    """Path of the newest Snapshot's model; UserError if there is none."""
    snapshot = newest(solver)
    if snapshot is None:
        raise UserError(
            f"no snapshot {solver.snapshot_prefix}_iter_* has both a complete {MODEL} and a "
            f"complete {STATE}: train first, or name the weights with --weights"
        )
    return snapshot.model


def check_resumable(state):
    """Raise UserError unless training can resume: this solverstate and its model must be complete.

    The model is the file that the state names or, for an HDF5 state, which only Caffe can read, the
    one beside it.
    """
    state = Path(state)
    reason = problem(state)
    if reason is None:
        reason = problem(_model_of(state))
    if reason:
        raise UserError(f"training can't resume from {state}: {reason}; use an earlier snapshot")


def _model_of(state):
    if state.suffix == HDF5:
        return state.with_name(state.name.replace(STATE, MODEL))
    from tools.pycaffe import caffe_pb2

    learned = caffe_pb2.SolverState.DESCRIPTOR.fields_by_name["learned_net"].number
    with open(state, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, wire, start, end in _fields(content, 0, len(content)):
            if number == learned and wire == LENGTH:
                return Path(content[start:end].decode(errors="surrogateescape"))
    raise UserError(f"{state} names no model, so it is not a snapshot of `caffe train`")


def _is_state(path):
    return STATE in path.suffixes


def _check_hdf5(content):
    """_Damaged unless an HDF5 file is as long as its superblock says (H5F__super_read's own test).

    HDF5 File Format Specification, II.A: version at byte 8; versions 0 and 1 state the size of
    offsets at byte 13 and the end of the file as the third offset from byte 24 (28), 2 and 3 the
    size at byte 9 and the end as the third offset from byte 12.
    """
    if content[: len(HDF5_SIGNATURE)] != HDF5_SIGNATURE or len(content) < 48:
        raise _Damaged("no header of an HDF5 file")
    version = content[8]
    first, size_at = {0: (24, 13), 1: (28, 13), 2: (12, 9), 3: (12, 9)}.get(version, (None, 0))
    if first is None or content[size_at] != 8:
        raise _Damaged("the header of the HDF5 file has an unknown version")
    (end,) = struct.unpack_from("<Q", content, first + 16)
    if len(content) < end:
        raise _Damaged(f"{len(content)} of {end} bytes")


def _check_message(content, is_state):
    """_Damaged unless the content is a SolverState or a NetParameter, with what each must hold."""
    from tools.pycaffe import caffe_pb2

    kind = (caffe_pb2.SolverState if is_state else caffe_pb2.NetParameter).DESCRIPTOR
    seen = _walk(content, 0, len(content), kind)
    names = ("iter", "learned_net") if is_state else ("layer", "layers")
    present = [kind.fields_by_name[name].number in seen for name in names]
    if not (all(present) if is_state else any(present)):
        raise _Damaged(f"it holds no {names[0]}")


def _walk(content, start, end, descriptor):
    """Numbers of the fields of a message; nested messages are checked too."""
    seen = set()
    for number, wire, begin, stop in _fields(content, start, end):
        seen.add(number)
        field = descriptor.fields_by_number.get(number)
        if wire == LENGTH and field is not None and field.message_type is not None:
            _walk(content, begin, stop, field.message_type)
    return seen


def _fields(content, position, end):
    """Yield (number, wire type, start, end) of the fields of a protobuf message.

    The content of packed floats and of strings is skipped, so that a gigabyte takes no time.
    """
    while position < end:
        tag, position = _varint(content, position, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _Damaged(f"no field at byte {position - 1}")
        start = position
        if wire == VARINT:
            _, position = _varint(content, position, end)
        elif wire == LENGTH:
            length, start = _varint(content, position, end)
            position = start + length
        elif wire in (FIXED64, FIXED32):
            position += 8 if wire == FIXED64 else 4
        else:
            raise _Damaged(f"no field at byte {position - 1}")
        if position > end:
            raise _Damaged(f"it ends within a field, at byte {end}")
        yield number, wire, start, position


def _varint(content, position, end):
    """(value, position after it) of a variable-length integer."""
    value = 0
    for i, byte in enumerate(content[position : min(position + LONGEST_VARINT, end)]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise _Damaged(f"it ends within a field, at byte {end}")

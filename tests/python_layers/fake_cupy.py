"""A stand-in for CuPy on machines without a GPU: NumPy behind a wall.

Its arrays do what CuPy's do, and refuse what makes Python wait for a GPU: float(), bool(), int(),
iteration, an index by booleans, a mix with NumPy arrays. Its functions are those of the tables
below and take the parameters that CuPy gives them; functions of CuPy that wait inside (nonzero,
unique, bincount, repeat ...) are not in the tables. Device.launches counts what would be kernels.
"""

import contextlib
import ctypes
import sys
import types

import numpy as np

# Parameters as in CuPy 14.2; test_device.py compares them with the CuPy that is installed.
FUNCTIONS = {
    "arange": "start stop step dtype",
    "argsort": "a axis kind",
    "concatenate": "tup axis out dtype casting",
    "cumsum": "a axis dtype out",
    "einsum": "operands kwargs",
    "empty": "shape dtype order",
    "empty_like": "prototype dtype order subok shape",
    "indices": "dimensions dtype",
    "ones": "shape dtype order",
    "ones_like": "a dtype order subok shape",
    "outer": "a b out",
    "partition": "a kth axis",
    "searchsorted": "a v side sorter",
    "sort": "a axis kind",
    "stack": "tup axis out dtype casting",
    "vdot": "a b",
    "where": "condition x y",
    "zeros": "shape dtype order",
    "zeros_like": "a dtype order subok shape",
}
UFUNCS = [
    "abs",
    "add",
    "copysign",
    "divide",
    "exp",
    "isfinite",
    "log",
    "matmul",
    "maximum",
    "minimum",
    "multiply",
    "sqrt",
    "subtract",
]
METHODS = {
    "any": "axis out keepdims",
    "argmax": "axis out dtype keepdims",
    "argmin": "axis out dtype keepdims",
    "astype": "dtype order casting subok copy",
    "copy": "order",
    "max": "axis out keepdims",
    "min": "axis out keepdims",
    "sum": "axis dtype out keepdims",
    "take": "indices axis out",
}
VIEWS = {
    "reshape": "shape",
    "ravel": "order",
    "diagonal": "offset axis1 axis2",
    "transpose": "axes",
    "view": "dtype",
}
# atomicAdd knows no 64-bit integers.
ADDED = [np.int32, np.uint32, np.uint64, np.float16, np.float32, np.float64]


class Waited(AssertionError):
    """What was done copies a value to the host, or waits for the GPU."""


class Device:
    """What happened on it."""

    def __init__(self):
        self.launches = 0
        self.results = []  # (dtype, shape) of every result that is not a view
        self.closed = False
        self.queue = None  # if given, the stream that kernels have to be on

    @contextlib.contextmanager
    def no_waiting(self):
        """Inside, the way to the host and back that the tests have is closed too."""
        self.closed = True
        try:
            yield
        finally:
            self.closed = False

    def transfer(self, values):
        if self.closed:
            raise Waited("a copy between host and device")
        return values


def make_cupy(monkeypatch):
    """(module, Device): the module is imported as `cupy` during the test."""
    device = Device()
    cupy = types.ModuleType("cupy")
    array = type("ndarray", (_Array,), {"__module__": "cupy", "device": device})
    array.make = array

    for name, parameters in FUNCTIONS.items():
        setattr(cupy, name, _function(array, name, parameters.split()))
    for name in UFUNCS:
        setattr(cupy, name, _Ufunc(array, name))
    cupy.ndarray = _constructor(array)
    cupy.cuda = types.SimpleNamespace(
        UnownedMemory=_UnownedMemory,
        MemoryPointer=_MemoryPointer,
        Stream=types.SimpleNamespace(null=_Stream()),
    )
    cupy.asarray = lambda values: array(device.transfer(np.array(values)))
    cupy.asnumpy = lambda values: device.transfer(values._values.copy())
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy, device


def _unwrap(value):
    if isinstance(value, _Array):
        return value._values
    if isinstance(value, np.ndarray):
        raise Waited("a NumPy array among CuPy arrays")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    if isinstance(value, dict):
        return {name: _unwrap(item) for name, item in value.items()}
    return value


def _launch(array, function, *arguments, **options):
    """The function's result as an array of the device; one kernel."""
    assert array.device.queue is None or array.device.queue.entered, "a kernel on another stream"
    array.device.launches += 1
    with np.errstate(all="ignore"):  # a GPU has no warnings
        result = function(*_unwrap(arguments), **_unwrap(options))
    result = np.asarray(result)
    array.device.results.append((result.dtype, result.shape))
    return array(result)


def _function(array, name, parameters):
    def call(*arguments, **options):
        unknown = set(options) - set(parameters) if name != "einsum" else set(options) - {"dtype"}
        if unknown or (name != "einsum" and len(arguments) > len(parameters)):
            raise TypeError(f"cupy.{name} takes {parameters}, not {sorted(unknown)}")
        return _launch(array, getattr(np, name), *arguments, **options)

    return call


class _Ufunc:
    def __init__(self, array, name):
        self._array, self._function = array, getattr(np, name)

    def __call__(self, *arguments, out=None):
        if out is None:
            return _launch(self._array, self._function, *arguments)
        _launch(self._array, self._function, *arguments, out=out)
        return out

    def at(self, target, index, values):
        if self._function is not np.add or target._values.dtype not in ADDED:
            raise TypeError(f"no {self._function.__name__}.at for {target._values.dtype}")
        if not isinstance(values, _Array):
            raise Waited("a value copied to the device")
        _launch(self._array, lambda a, i, v: self._function.at(a, i, v), target, index, values)


class _Array:
    __array_ufunc__ = None  # NumPy's scalars leave operators to this class
    __hash__ = None

    def __init__(self, values):
        self._values = values

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    T = property(lambda self: self.make(self._values.T))

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        if not _is_fancy(index):
            return self.make(np.asarray(self._values[_unwrap(index)]))
        return _launch(self.make, lambda values, at: values[at], self, index)

    def __setitem__(self, index, value):
        if _is_fancy(index) and not isinstance(value, _Array):
            raise Waited("a value copied to the device")

        def put(values, at, new):
            values[at] = new

        _launch(self.make, put, self, index, value)

    def _refuse(self, *arguments, **options):
        raise Waited("a CuPy array's value was asked for")

    __array__ = __float__ = __int__ = __bool__ = __index__ = __iter__ = __contains__ = _refuse
    get = item = tolist = __array_function__ = __format__ = __complex__ = _refuse

    def __repr__(self):
        return f"<device array {self.dtype} {self.shape}>"


def _is_fancy(index):
    """Whether an index copies; raises for one whose result's size depends on values."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [part for part in parts if isinstance(part, (_Array, np.ndarray, list))]
    for part in arrays:
        if not isinstance(part, _Array) or part.dtype.kind not in "iu":
            raise Waited(f"an index by {part!r}")
    return bool(arrays)


def _operator(name):
    def operate(self, *others):
        if any(isinstance(other, np.ndarray) for other in others):
            return NotImplemented
        result = _launch(self.make, getattr(np.ndarray, name), self, *others)
        return self if name.startswith("__i") and name != "__invert__" else result

    return operate


for _name in (
    "add sub mul truediv floordiv mod pow matmul and or radd rsub rmul rtruediv "
    "iadd isub imul itruediv lt le gt ge eq ne neg invert abs"
).split():
    setattr(_Array, f"__{_name}__", _operator(f"__{_name}__"))


def _method(name, parameters, copies):
    def call(self, *arguments, **options):
        if set(options) - set(parameters):
            raise TypeError(f"cupy.ndarray.{name} takes {parameters}, not {sorted(options)}")
        method = getattr(np.ndarray, name)
        if copies:
            return _launch(self.make, method, self, *arguments, **options)
        return self.make(method(self._values, *arguments, **options))

    return call


for _name, _parameters in METHODS.items():
    setattr(_Array, _name, _method(_name, _parameters.split(), True))
for _name, _parameters in VIEWS.items():
    setattr(_Array, _name, _method(_name, _parameters.split(), False))


class _Stream:
    """The default stream; knows whether something is done on it."""

    entered = False

    def __enter__(self):
        self.entered = True

    def __exit__(self, *error):
        self.entered = False


class _UnownedMemory:
    """Host memory that plays a blob's device memory."""

    def __init__(self, pointer, size, owner):
        self.memory, self.owner = (ctypes.c_char * size).from_address(pointer), owner


class _MemoryPointer:
    def __init__(self, memory, offset):
        self.values = np.frombuffer(memory.memory, np.uint8)[offset:]


def _constructor(array):
    return lambda shape, dtype, pointer: array(pointer.values.view(dtype).reshape(shape))

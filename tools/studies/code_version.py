"""Digests of the code that decides what a training computes.

The Python layers of its net decide it, with the modules that they import. The generators of nets
and solvers do so by what they write: of that, a record has a digest of its own (generated.py).
"""

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = "python_layers"
ALL = ("tools/nets/*.py", f"{LAYERS}/*.py", "tools/make_prototxt.py")  # of records of format 1


@functools.cache
def of_modules(names):
    """Hexadecimal digest of modules of python_layers and of all that they import from there.

    names: a tuple, as `python_param { module: ... }` has them; those that do not exist count, too.
    """
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name in found or not path.is_file():
            found.setdefault(name, "")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = _text(tree)
        waiting += _imported(tree)
    return _digest(sorted(found.items()))


@functools.cache
def of_all():
    """The same of all Python layers and the generators, for records of format 1."""
    paths = [path for pattern in ALL for path in sorted(ROOT.glob(pattern))]
    return _digest(
        (str(path.relative_to(ROOT)), meaning(path.read_text(encoding="utf-8"))) for path in paths
    )


def _imported(tree):
    """Names of the modules of python_layers that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.startswith(f"{LAYERS}."))
        elif isinstance(node, ast.ImportFrom) and node.module == LAYERS:
            yield from (f"{LAYERS}.{one.name}" for one in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{LAYERS}."):
            yield node.module


def _digest(pairs):
    """Hexadecimal digest of ((name, text), ...)."""
    found = hashlib.sha256()
    for name, text in pairs:
        found.update(f"{name}\n{text}".encode())
    return found.hexdigest()


def meaning(source):
    """The syntax tree of a Python source as text, without docstrings, the same in every Python.

    ast.dump differs between versions of Python, which add fields and omit empty ones.
    """
    return _text(ast.parse(source))


def _text(node):
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={_text(_body(value) if name == 'body' else value)}"
        for name, value in ast.iter_fields(node)
        if value is not None and value != [] and name not in ("kind", "ctx")
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _body(statements):
    """The statements of a body but for its docstring."""
    if isinstance(statements, list) and statements:
        first = statements[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            return statements[1:]
    return statements

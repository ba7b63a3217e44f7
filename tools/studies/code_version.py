"""Digests of the code that decides what a training computes.

The Python layers decide it, and the generators of nets and solvers do so by what they write: of
that, a record has a digest of its own (generated.py).
"""

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("python_layers/*.py",)
ALL = ("tools/nets/*.py", *LAYERS, "tools/make_prototxt.py")  # of records of format 1


def current():
    """Hexadecimal digest of today's Python layers."""
    return _of(LAYERS)


def current_of_all():
    """The same of the generators, too, with which records of format 1 are compared."""
    return _of(ALL)


@functools.cache
def _of(patterns):
    """Hexadecimal digest of sources; comments, docstrings and layout do not change it."""
    found = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            found.update(f"{path.relative_to(ROOT)}\n".encode())
            found.update(meaning(path.read_text(encoding="utf-8")).encode())
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

"""Starts the commands of this repository as a user does, in a process of their own.

The first start of each command in a session is a Python of its own; later ones are forks of one
that has loaded numpy, OpenCV, Caffe and other packages already (fork_server.py), at a fifth of the
processor time. What such a process prints, how it ends and what it leaves is the same. A test that
needs a new Python, e.g. another order of sets (its hashes differ in each), asks for `fresh`.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OF_PYTEST = "PYTEST_CURRENT_TEST"  # changes with every test

_started = set()
_server = None
_one_at_a_time = threading.Lock()


class _Server:
    """The Python that is forked, and the environment variables it was started with."""

    def __init__(self, environment):
        self.environment = environment
        self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("fork_server.py"), str(other.fileno())],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )

    def run(self, script, arguments, folder):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                message = json.dumps([script, arguments, folder]).encode()
                socket.send_fds(self.channel, [message], [out.fileno(), err.fileno()])
                status = self.channel.recv(64)
            except BaseException:  # interrupted, or the test's time is over
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise
            assert status, "fork_server.py has ended"
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n").replace("\r", "\n"))
        return subprocess.CompletedProcess([script, *arguments], int(status), *texts)

    def end(self):
        self.channel.close()
        self.process.wait()


def run(script, *arguments, cwd=ROOT, fresh=False, preexec_fn=None, **environment):
    """The finished command, a path in the repository, with the text of .stdout and .stderr.

    It runs in the folder `cwd`, with one thread of BLAS, and with the variables of `environment`
    beside those of this process. preexec_fn: what a new Python calls first, as subprocess has it.
    """
    script, arguments = str(ROOT / script), list(map(str, arguments))
    variables = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment
    variables.pop(OF_PYTEST, None)
    with _one_at_a_time:
        new = fresh or preexec_fn or environment or script not in _started
        server = None if new else _server_for(variables)
        _started.add(script)
        if server:
            return server.run(script, arguments, os.fspath(cwd))
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=cwd,
        env=variables,
        preexec_fn=preexec_fn,
        capture_output=True,
        text=True,
    )


def _server_for(environment):
    """The running server, or None if it was started with other environment variables."""
    global _server
    if _server is None or _server.process.poll() is not None:
        _server = _Server(environment)
        atexit.register(_server.end)
    return _server if _server.environment == environment else None

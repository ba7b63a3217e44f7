"""Runs commands of this repository in forks of a Python that has loaded the packages they need.

programs.py starts it. Each message on the socket is [script, arguments, folder] as JSON, with the
files for standard output and standard error; the answer is the exit status, as subprocess has it.
Only packages of others are loaded before the fork: the command loads its own modules itself.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import threading
from pathlib import Path

PACKAGES = (  # not onnxruntime, which starts a thread when it is loaded
    "data_prep.opencv",  # OpenCV with this repository's limits, which it reads when it is loaded
    "caffe",
    "google.protobuf.text_format",
    "lmdb",
    "tqdm",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "jinja2",
    "onnx",
    "threadpoolctl",
)


def serve(channel):
    """Answers until the other side closes the socket; returns (script, arguments) in each fork."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        if not message:
            sys.exit()
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1, f"a fork would lack {threads - 1} of the threads of these packages"
        child = os.fork()
        if not child:
            channel.close()
            for descriptor, number in zip(descriptors, (1, 2)):
                os.dup2(descriptor, number)
                os.close(descriptor)
            script, arguments, folder = json.loads(message)
            os.chdir(folder)
            return script, arguments
        for descriptor in descriptors:
            os.close(descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        channel.send(str(status).encode())


def status_of(script):
    """Runs a script to its end; its exit status, after Python's own report of what it raises."""
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    return 1


def end(status):
    """Ends a fork as multiprocessing ends its own: what the server has loaded is not taken apart.

    That would copy most of its memory, and costs more than all the rest.
    """
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main():
    sys.path[0] = ""  # for the script's folder
    for name in PACKAGES:
        importlib.import_module(name)
    gc.freeze()  # of what was loaded, a collection in a fork visits and copies nothing
    script, arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(script).absolute().parent)
    sys.argv[1:] = arguments
    end(status_of(script))


if __name__ == "__main__":
    main()

"""Runs commands of this repository in forks of a Python that has loaded the packages they need.

programs.py starts it. Each message on the socket is [script, arguments, folder] as JSON, with the
files for standard output and standard error; the answer is the exit status, as subprocess has it.
Only packages of others are loaded before the fork: the command loads its own modules itself.
"""

import gc
import importlib
import json
import os
import runpy
import socket
import sys
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


def main():
    sys.path[0] = ""  # for the script's folder
    for name in PACKAGES:
        importlib.import_module(name)
    gc.freeze()  # a fork that ends need not take apart what it did not make
    script, arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(script).absolute().parent)
    sys.argv[1:] = arguments
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()

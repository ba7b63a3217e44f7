"""Sets up a net in Caffe, in phase TEST, and prints its shapes as JSON.

It runs as a separate process, because a net may exceed the memory or crash Caffe:

    python -m tools.nets.set_up NET BYTES

NET is a prototxt, BYTES the limit of its address space.
"""

import json
import resource
import sys


def main(path, most):
    """Print ({blob: shape}, {layer: [shapes of its weights]}) of the net in a file."""
    resource.setrlimit(resource.RLIMIT_AS, (int(most),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tools.pycaffe import TEST, caffe

    try:
        net = caffe.Net(str(path), TEST)
    except caffe.Error as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)
    blobs = {name: list(blob.shape) for name, blob in net.blobs.items()}
    weights = {name: [list(blob.shape) for blob in blobs] for name, blobs in net.params.items()}
    print(json.dumps([blobs, weights]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How many processor cores this process may use."""

import os


def cores_of_process():
    """Fewer than the machine's where taskset or a container limits them."""
    return len(os.sched_getaffinity(0))

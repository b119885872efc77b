"""How many cores of the processor there are for this process."""

import os


def num_cores() -> int:
    """Cores that this process may use: of a container or under taskset fewer than there are.

    Returns:
        int of at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

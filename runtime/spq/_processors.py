"""How many processors this process may keep busy."""

import os
from pathlib import Path

# What a container may use (Linux, control groups version 2): quota and period in microseconds.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processor_count() -> int:
    """Return the processors that this process may run on, no more than its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text("ascii").split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or one without a quota
        return count

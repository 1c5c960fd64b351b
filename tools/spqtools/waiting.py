"""Lets the threads of a search sleep while they wait for each other."""

import os

# Turns of a waiting loop, some microseconds.
_TURNS = "1000"


def let_threads_sleep() -> None:
    """Tell GNU OpenMP to wait in a loop for microseconds only, unless its user has said how.

    Call it before PyTorch is imported. By default a thread loops for a millisecond and more
    whenever another one has to come, and a search makes them wait thousands of times a second.
    Where other work wants the same processors, the other one cannot come meanwhile.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)

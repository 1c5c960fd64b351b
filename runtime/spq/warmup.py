"""Compiles the kernels ahead of time, so that a service does not compile at its first load."""

import io
from pathlib import Path

import numpy as np

from spqformat import Limits


def warmup() -> Path:
    """Compile every kernel for every element width into the private cache.

    Run it once while a container image is built; later processes load the compiled code, where they
    may write to the folder too.

    Returns
    -------
    Path
        Folder of the cache; set ``SPQ_CACHE_DIR`` to choose it.

    Raises
    ------
    SpqError
        `unsafe_cache` when others may write to the folder.
    OSError
        It cannot be created.
    """
    from spq._jit import cache_folder
    from spq._kernels import join_planes
    from spq.archive import Archive
    from spq.save import save

    folder = cache_folder()
    # Two classes of rows and of columns, so that the kernels with contexts are compiled as well.
    dense_rows = np.arange(64 * 256).reshape(64, 256) % 5
    dense_rows[32:, 128:] = 0
    dense_rows[:, 0::3] = 0
    # Kernels of nine places, whose symbols take two bytes, with one context and with several.
    kernels = (np.arange(40 * 40 * 9).reshape(40, 40, 3, 3) % 13 == 0) * 3
    uneven_kernels = kernels.copy()
    uneven_kernels[20:, 10:] = 0
    tensors = {
        f"{kind}{width}": values.astype(f"u{width}")
        for width in (1, 2, 4, 8)
        for kind, values in (
            ("sparse", dense_rows),
            ("flat", dense_rows.ravel() * (np.arange(64 * 256) % 7 == 0)),
            ("kernels", kernels),
            ("uneven kernels", uneven_kernels),
            ("dense", dense_rows + 1),
        )
    }
    # Elements of one byte rarely are in planes.
    for width in (1, 2, 4, 8):
        join_planes(np.zeros((width, 8), dtype=np.uint8), False, np.zeros(8, dtype=f"u{width}"))
    # Every element type is mixed by the same code.
    tensors["mixed"] = (dense_rows[:, :64] / 7).astype("f4")
    stream = io.BytesIO()
    save(tensors, stream, fast_load=False)
    with Archive(stream.getvalue(), Limits()) as archive:
        archive.tensors()
    return folder

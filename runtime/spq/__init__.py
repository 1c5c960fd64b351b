"""SPQ: load and save compressed networks.

The public names are imported on first use, so that `import spq` costs neither a framework nor the
compiler, and a service that only uses ONNX Runtime never imports torch.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spqformat import Limits, Reason, SpqError, __version__

if TYPE_CHECKING:
    from spq.archive import Archive, TensorInfo, open
    from spq.save import save
    from spq.session import load_onnx, session
    from spq.to_torch import load, load_state_dict
    from spq.warmup import warmup

_HOMES = {
    "Archive": "spq.archive",
    "TensorInfo": "spq.archive",
    "load": "spq.to_torch",
    "load_onnx": "spq.session",
    "load_state_dict": "spq.to_torch",
    "open": "spq.archive",
    "save": "spq.save",
    "session": "spq.session",
    "warmup": "spq.warmup",
}

__all__ = [
    "Archive",
    "Limits",
    "Reason",
    "SpqError",
    "TensorInfo",
    "__version__",
    "load",
    "load_onnx",
    "load_state_dict",
    "open",
    "save",
    "session",
    "warmup",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'spq' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps functions under their names when modules of the same names are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python puts each imported module into its package, `spq.save` as others.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

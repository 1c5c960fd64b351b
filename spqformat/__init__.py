"""The SPQ-1 container: bytes to validated tables and back, with NumPy and zstandard."""

from spqformat.errors import Reason, SpqError
from spqformat.limits import Limits

__version__ = "0.1.0"

__all__ = ["Limits", "Reason", "SpqError", "__version__"]

"""What a reader is willing to spend on a file, compared before anything is allocated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Maxima that a reader enforces before it allocates (spec 9).

    Parameters
    ----------
    max_decoded_bytes : int
        Bytes of all decoded tensors together.
    max_tensors : int
        Number of tensors.
    max_directory_bytes : int
        Bytes of the directory, also of what a deflated one unpacks to.
    max_metadata_bytes : int
        Bytes of the metadata section, which is never compressed.
    max_program_bytes : int
        Bytes of all decompressed programs together.
    """

    max_decoded_bytes: int = 8 << 30
    max_tensors: int = 1 << 20
    max_directory_bytes: int = 64 << 20
    max_metadata_bytes: int = 1 << 20
    max_program_bytes: int = 256 << 20

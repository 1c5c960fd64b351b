"""Into how many elements tensors are cut, each piece coded and decoded by itself."""

CHUNK_ELEMENTS = 1 << 19
# Tensors of no more elements are tried in every way, as that takes little time.
SMALL_ELEMENTS = 1 << 16

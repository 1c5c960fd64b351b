"""The compressor and the `spq` command."""

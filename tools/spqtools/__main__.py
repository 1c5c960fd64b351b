"""Runs the `spq` command as `python -m spqtools`."""

import sys

from spqtools.cli import main

sys.exit(main())

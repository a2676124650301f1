"""`python -m pspec_rt.cli`: the same as the installed command `pspec-rt`."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())

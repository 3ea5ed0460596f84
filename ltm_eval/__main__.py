"""`python -m ltm_eval`: the same command as `ltm-eval`."""

from __future__ import annotations

import sys

from ltm_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m standby` is the command `standby`."""

from __future__ import annotations

import sys

from standby.cli import main

if __name__ == "__main__":
    sys.exit(main())

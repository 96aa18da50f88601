"""The command ``paredown``."""

from __future__ import annotations

import sys

from . import _paredown


def main() -> int:
    """Runs the command line with the arguments of this process, and returns its exit code."""
    return _paredown.main(["paredown", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())

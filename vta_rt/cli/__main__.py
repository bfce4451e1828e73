"""``python -m vta_rt.cli`` is ``vta``."""

import sys

from vta_rt.cli import run

if __name__ == "__main__":
    sys.exit(run())

"""``python -m vta_rt.cli`` is ``vta``."""

import sys

from vta_rt.cli import main

if __name__ == "__main__":
    sys.exit(main())

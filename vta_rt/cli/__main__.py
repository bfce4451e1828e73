"""``python -m vta_rt.cli`` is ``vta``."""

import sys

from vta_rt.cli import main

sys.exit(main())

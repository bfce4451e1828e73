"""The old name of ``python -m train.demo.evaluate``."""

from __future__ import annotations

import runpy
import warnings

if __name__ == "__main__":
    warnings.warn("python -m train.evaluate is now python -m train.demo.evaluate", DeprecationWarning, stacklevel=1)
    runpy.run_module("train.demo.evaluate", run_name="__main__", alter_sys=True)

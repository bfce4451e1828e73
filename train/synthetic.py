"""The old name of ``python -m train.demo.synthetic``."""

from __future__ import annotations

import runpy
import warnings

if __name__ == "__main__":
    warnings.warn("python -m train.synthetic is now python -m train.demo.synthetic", DeprecationWarning, stacklevel=1)
    runpy.run_module("train.demo.synthetic", run_name="__main__", alter_sys=True)

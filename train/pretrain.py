"""The old name of ``python -m train.demo.pretrain``."""

from __future__ import annotations

import runpy
import warnings

if __name__ == "__main__":
    warnings.warn("python -m train.pretrain is now python -m train.demo.pretrain", DeprecationWarning, stacklevel=1)
    runpy.run_module("train.demo.pretrain", run_name="__main__", alter_sys=True)

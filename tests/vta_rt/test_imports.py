"""The runtime stands alone: every module imports where no training framework can be imported."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import vta_rt

MODULES = [module.name for module in pkgutil.walk_packages(vta_rt.__path__, "vta_rt.")]
FORBIDDEN = ("torch", "diffusers", "transformers", "accelerate", "onnx", "export", "train")


def test_every_module_imports_without_a_training_framework() -> None:
    script = f"""
import importlib, sys
for name in {FORBIDDEN!r}:
    sys.modules[name] = None  # importing it raises ImportError
for name in {MODULES!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_are_found() -> None:
    assert {"vta_rt.pipeline", "vta_rt.backends.onnxruntime", "vta_rt.schedule"} <= set(MODULES)


def test_importing_the_package_does_not_load_the_engine() -> None:
    script = "import sys, vta_rt; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

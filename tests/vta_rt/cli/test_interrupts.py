"""Ctrl-C while the command's packages are imported: one line, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.vta_rt.cli.driver import heed_signals

INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *rest):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from vta_rt.cli import run
sys.argv[1:] = ["info", "nowhere"]
sys.exit(run())
"""


@pytest.mark.parametrize("module", ["numpy", "av", "vta_rt.pipeline", "vta_rt.cli.bundles"])
def test_while_packages_are_imported(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"MODULE = {module!r}\n{INTERRUPTED}"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=heed_signals,
    )
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_the_package_itself_imports_little() -> None:
    code = "import sys, vta_rt; print([name for name in ('numpy', 'av', 'onnxruntime') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_signal_while_an_object_is_deleted() -> None:
    """Python drops what is raised there; the command ends all the same."""
    code = (
        "import os, signal, sys, time\n"
        "from vta_rt.cli.command import run_command\n"
        "class Thing:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.01)\n"
        "def command(_):\n"
        "    thing = Thing()\n"
        "    del thing\n"
        "    time.sleep(30)\n"
        "sys.exit(run_command(command))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (143, "interrupted\n")

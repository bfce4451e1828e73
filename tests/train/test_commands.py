"""What all training commands say alike."""

from __future__ import annotations

import subprocess
import sys

import pytest

from train.commands import run_training_command


@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("train.distill", "torch", ["--teacher", "x", "--steps", "4"]),
        ("train.demo.evaluate.__main__", "sklearn", ["--data", "x"]),
        ("train.first_stage.__main__", "accelerate", ["vae", "--data", "x", "--out", "y"]),
        ("train.prepare", "torch", ["x.jsonl", "--out", "y"]),
        ("train.demo.pretrain.__main__", "torch", ["--data", "x", "--valid", "x", "--out", "y"]),
        ("train.run", "torch", []),
    ],
)
def test_what_is_missing_is_named_with_what_brings_it(module: str, package: str, arguments: list[str]) -> None:
    script = f"import sys; sys.modules['{package}'] = None; from {module} import main; sys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == f'error: {package} is not installed; it comes with: pip install "vta-rt[train]"\n'
    assert done.returncode == 2


@pytest.mark.parametrize(
    "reason", ["CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_is_one_line(reason: str, capsys: pytest.CaptureFixture) -> None:
    def command(arguments: object) -> int:
        raise RuntimeError(reason)

    assert run_training_command(command, []) == 2
    assert capsys.readouterr().err == "error: out of memory: a smaller batch, or shorter samples, take less\n"

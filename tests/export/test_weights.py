"""Files that are no state dicts are told apart in one line, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.export.layouts import MODEL, refusal


def git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def web_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")


def truncated(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def truncated_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:9000])


def truncated_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("audioldm/readme.txt", "x")


def pickled_module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


class Runs:
    """Unpickled carelessly, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (f"{self.path}.was-run",)


FOREIGN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "is empty"),
    (git_lfs_pointer, "is a git-lfs pointer"),
    (web_page, "is a web page"),
    (lambda path: path.write_text('{"error": "not found"}'), "is a JSON text"),
    (lambda path: path.write_bytes(b"RIFF0000WAVE"), "is neither a torch file nor a safetensors file"),
    (truncated, "truncated"),
    (truncated_legacy, "truncated"),
    (truncated_safetensors, "truncated"),
    (other_zip, "is a zip archive of other files (audioldm/readme.txt)"),
    (lambda path: torch.jit.script(torch.nn.Identity()).save(path), "is a TorchScript program"),
    (pickled_module, "holds a Python object (torch.nn.modules.linear.Linear)"),
    (lambda path: torch.save({"a": Runs(path)}, path), "holds a Python object (posix.mkdir)"),
    (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "is a pickle, but not one"),
    (lambda path: torch.save([torch.zeros(2)], path), "holds a list, a state dict is needed"),
    (lambda path: torch.save({"model": {"a": torch.zeros(2)}, "epoch": 3}, path), "what it holds is model, epoch"),
    (lambda path: torch.save({}, path), "it is empty"),
    (lambda path: torch.save({"abc.weight": torch.zeros(2)}, path), "what it holds is abc.weight"),
]


@pytest.mark.parametrize(("make", "expected"), FOREIGN)
@pytest.mark.parametrize("role", ["model", "first stage"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_foreign_files(folder: Path, make: Callable[[Path], object], expected: str, role: str) -> None:
    path = folder / MODEL / "pytorch_model_2.bin" if role == "model" else folder / "audioldm-s-full.ckpt"
    path.unlink()
    make(path)
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert not Path(f"{path}.was-run").exists()

"""Files that are no state dicts, or those of other models, are told apart in one line, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.export.layouts import MODEL, StateDict, refusal, replace_weights
from train.models.weights import strip_prefix


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


HUGE_HEADER = b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}'
HUGE_TENSOR = len(HUGE_HEADER).to_bytes(8, "little") + HUGE_HEADER
FOREIGN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "is empty"),
    (git_lfs_pointer, "is a git-lfs pointer"),
    (web_page, "is a web page"),
    (lambda path: path.write_text('{"error": "not found"}'), "is a JSON text"),
    (lambda path: path.write_bytes(b"RIFF0000WAVE"), "is neither a torch file nor a safetensors file"),
    (truncated, "truncated"),
    (truncated_legacy, "truncated"),
    (truncated_safetensors, "truncated"),
    (lambda path: path.write_bytes((1 << 60).to_bytes(8, "little") + b"{" * 100), "truncated"),
    (lambda path: path.write_bytes((500).to_bytes(8, "little") + b'{"a":' * 100), "truncated or damaged"),
    (lambda path: path.write_bytes(HUGE_TENSOR), "truncated or damaged"),
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


@pytest.mark.parametrize(
    ("role", "make", "expected"),
    [*(("model", *row) for row in FOREIGN), *(("first stage", *row) for row in FOREIGN[4:7])],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_foreign_files(folder: Path, role: str, make: Callable[[Path], object], expected: str) -> None:
    path = folder / MODEL / "pytorch_model_2.bin" if role == "model" else folder / "audioldm-s-full.ckpt"
    path.unlink()
    make(path)
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert not Path(f"{path}.was-run").exists()


def optimizer(_: StateDict) -> object:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    adam = torch.optim.AdamW([parameter])
    adam.step()
    return adam.state_dict()


LOOK_ALIKES: list[tuple[Callable[[StateDict], object], str]] = [
    (optimizer, "an optimizer's state"),
    (lambda tensors: {"base_lrs": [0.1], "last_epoch": 2, "_step_count": 3}, "a learning-rate scheduler's state"),
    (lambda tensors: strip_prefix(tensors, "unet."), "a bare UNet"),
    (lambda tensors: {name: t for name, t in tensors.items() if name.startswith("unet.")}, "a UNet alone"),
    (lambda tensors: strip_prefix(tensors, "vid_fea_extractor.clip_vision."), "a CLIP image encoder"),
    (lambda tensors: strip_prefix(tensors, "vid_fea_extractor.clip_text."), "a CLIP text encoder"),
    (lambda tensors: {f"module.{name}": t for name, t in tensors.items()}, "DistributedDataParallel"),
    (lambda tensors: {"ib_model.head": torch.zeros(2)}, "a VTA-LDM variant with ImageBind as frame encoder"),
    (
        lambda tensors: {"unet.conv_in.bias": torch.zeros(2), "text_encoder.shared.weight": torch.zeros(2)},
        "a text-to-audio checkpoint of Tango",
    ),
    (lambda tensors: {"stft_fn.forward_basis": torch.zeros(2)}, "the short-time Fourier transform"),
]


@pytest.mark.parametrize(("change", "expected"), LOOK_ALIKES)
def test_models_of_another_kind(
    folder: Path, model_tensors: StateDict, change: Callable[[StateDict], object], expected: str
) -> None:
    path = replace_weights(folder, change(model_tensors))
    message = refusal(folder)
    assert message.startswith(f"{path}: is not a")
    assert "it looks like" in message
    assert expected in message


def test_first_stages_in_the_models_place(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    message = refusal(folder / "audioldm-s-full.ckpt")
    assert "text-to-audio checkpoint of AudioLDM, which is of use as --first-stage only" in message
    torch.save(first_stage_tensors, tmp_path / "pytorch_model.bin")
    assert "it looks like a first stage" in refusal(tmp_path / "pytorch_model.bin")

"""Reading a file of tensors, torch's or safetensors', without copying it and without running anything in it.

A file that turns out to be something else is refused in one line that says what it looks like.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from train.models.identify import describe_content, listing
from vta_rt.errors import VTAError
from vta_rt.files import open_ordinary

T = TypeVar("T")


class CheckpointError(VTAError):
    """Weights that cannot be found or read, are of another kind, or do not fit their own shapes."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by name, memory-mapped where its format allows; a lone ``state_dict`` entry is unwrapped.

    Numbers count as tensors of no dimension. The format is told from the content, not from the file's name.

    Raises:
        CheckpointError: missing, unreadable, truncated, not a state dict, or a pickle of more than tensors.
    """
    try:
        start = _first_bytes(path)
        _refuse_foreign(path, start)
        content = _read_safetensors(path) if start[8:9] == b"{" else _read_torch(path, start)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _flat(path, content)


def load_torch(path: Path, *, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote, on the CPU; a pickle of other objects than tensors is refused as ``torch.load`` does."""
    with warnings.catch_warnings(action="ignore"):  # about unusual pickles, which load or are refused
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def fingerprint(module: nn.Module) -> str:
    """Hex sha256 of a module's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that the folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def strip_prefix(items: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The items whose names begin with ``prefix``, by the rest of the name."""
    return {name.removeprefix(prefix): item for name, item in items.items() if name.startswith(prefix)}


def squeeze_1x1(tensor: Tensor, ndim: int) -> Tensor:
    """The weights of a 1x1 convolution [O, I, 1, 1] as those of a linear layer, where that has them: ``ndim`` is 2."""
    return tensor[:, :, 0, 0] if ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _first_bytes(path: Path, count: int = 512) -> bytes:
    with open_ordinary(path) as file:
        return file.read(count)


def _refuse_foreign(path: Path, start: bytes) -> None:
    """Files that are no weights at all, as downloads that went wrong leave them."""
    text = start.lstrip().lower()
    if not start:
        raise CheckpointError(f"{path}: is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: is a git-lfs pointer, not the weights; run `git lfs pull` where it came from")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path}: is a web page, not weights; the download link led to a page about the file")
    if text.startswith((b"{", b"[")):
        raise CheckpointError(f"{path}: is a JSON text, not weights")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is a safetensors file that is truncated or damaged ({error})") from error


def _read_torch(path: Path, start: bytes) -> Any:
    is_zip = start.startswith(b"PK")
    if is_zip:
        _check_zip(path)
    elif not start.startswith(b"\x80"):  # neither archive nor pickle
        raise CheckpointError(f"{path}: is neither a torch file nor a safetensors file")
    try:
        return load_torch(path, mmap=is_zip)  # which needs the archives that torch has written since 1.6
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_unsafe(str(error))}") from error
    except (EOFError, RuntimeError, KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: is a torch file that is truncated or damaged; download it again") from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: is a torch file that is truncated; download it again") from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path}: is a TorchScript program, a state dict is needed")
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{path}: is a zip archive of other files ({listing(names, limit=3)}); unpack it first")


def _unsafe(message: str) -> str:
    """Why torch refused a pickle, out of its own paragraph."""
    found = re.search(r"GLOBAL (\S+)", message)
    if found is None:
        return "is a pickle, but not one of tensors that torch.save wrote"
    return f"holds a Python object ({found[1]}) besides tensors and is not loaded, since that could run code in it"


def _flat(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in what a file held."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, a state dict is needed")
    tensors = {
        str(name): torch.tensor(value) if isinstance(value, (int, float)) else value for name, value in content.items()
    }
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: is not a state dict (names with a tensor each); {describe_content(tensors)}")
    return tensors

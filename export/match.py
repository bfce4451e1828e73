"""Strict comparison of the tensors in a file with the tensors that modules want. Knows names and shapes, no models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from train.models.identify import listing
from train.models.weights import CheckpointError

Rename = Callable[[str], str]


@dataclass(frozen=True)
class Source:
    """Tensors of one file, and which modules ("parts") they are for.

    parts: each part's way from a module's own name of a tensor to the file's.
    ignored: pattern of names that belong to no part and do no harm.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    parts: Mapping[str, Rename] = field(default_factory=dict)
    ignored: str = r".*\.position_ids"


@dataclass(frozen=True)
class Part:
    """The tensors of one module, in the file they lie in. names: the file's, by the module's own."""

    file: Path
    state: Mapping[str, Tensor]
    names: Mapping[str, str]


def match(source: Source, modules: Mapping[str, nn.Module]) -> dict[str, Part]:
    """Each of the source's parts, complete and of the shapes its module wants.

    A 1x1 convolution's weight is accepted for a linear layer.

    Raises:
        CheckpointError: every missing, unexpected or misshapen tensor, in one line.
    """
    missing: list[str] = []
    misshapen: list[str] = []
    unexpected = {name for name in source.tensors if not re.fullmatch(source.ignored, name)}
    parts: dict[str, Part] = {}
    for part, name_in_file in source.parts.items():
        wanted = modules[part].state_dict()
        names = {name: name_in_file(name) for name in wanted}
        missing += [name for name in names.values() if name not in source.tensors]
        state = {
            name: _as_linear(source.tensors[file_name], wanted[name].ndim)
            for name, file_name in names.items()
            if file_name in source.tensors
        }
        misshapen += [
            f"{names[name]} is {_form(tensor)}, not {_form(wanted[name])}"
            for name, tensor in state.items()
            if tensor.shape != wanted[name].shape
            or (wanted[name].is_floating_point() and not tensor.is_floating_point())
        ]
        unexpected -= set(names.values())
        parts[part] = Part(source.file, state, names)
    _refuse(source.file, missing, misshapen, [name for name in source.tensors if name in unexpected])
    return parts


def _refuse(file: Path, missing: list[str], misshapen: list[str], unexpected: list[str]) -> None:
    kinds = (("missing", missing), ("of another shape or type", misshapen), ("unexpected", unexpected))
    if problems := [f"{len(names)} {kind}: {listing(names)}" for kind, names in kinds if names]:
        raise CheckpointError(f"{file}: its tensors are not those of the model it describes; {'; '.join(problems)}")


def _as_linear(tensor: Tensor, ndim: int) -> Tensor:
    return tensor[:, :, 0, 0] if ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{list(tensor.shape)}{kind}"

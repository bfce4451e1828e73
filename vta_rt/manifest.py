"""``bundle.json``: its schema as dataclasses, and reading, checking and writing it.

It is plain JSON, so that a runtime in any language can read it. Reading checks once that the graphs fit the model, so that
nothing later has to.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from vta_rt.config import MAX_WINDOW_VALUES, FrameConfig, ModelConfig
from vta_rt.documents import read_document
from vta_rt.errors import BundleError, OptionError, show
from vta_rt.files import atomic_write
from vta_rt.sampling import Sampling
from vta_rt.schedule import NoiseSchedule
from vta_rt.verification import FileRecord

MANIFEST = "bundle.json"
REFERENCES = "references.json"
FORMAT_VERSION = 1


Precision = Literal["fp32", "fp16", "bf16", "int8"]
Shape = tuple[int | None, ...]
Signature = dict[str, tuple[Shape, str]]
"""Shape and type of each tensor, by name."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    shape: tuple[int | str, ...]  # a size that may vary is a name
    dtype: str  # numpy's name


@dataclass(frozen=True)
class GraphRecord:
    """One exported graph."""

    graph: FileRecord
    weights: tuple[FileRecord, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    error: dict[str, float] = field(default_factory=dict)  # of each output, relative to the torch module at fp32
    key: str = ""  # hash of everything the graph was made from; a build with the same key keeps the graph
    operations: float | None = None  # multiplications and additions for one clip of full length; None if not counted

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return (self.graph, *self.weights)


@dataclass(frozen=True)
class Source:
    """Where a bundle came from."""

    checkpoint: str
    sha256: dict[str, str]  # of each file of the checkpoint, by its name
    exporter: str
    licence: str = ""
    trained_on: str = ""


@dataclass(frozen=True)
class Manifest:
    """``bundle.json``."""

    format_version: int
    model: ModelConfig
    frames: FrameConfig
    schedule: NoiseSchedule
    graphs: dict[str, GraphRecord]
    source: Source
    engines: tuple[str, ...] = ()  # folders in tensorrt/ that contain engines
    sampling: Sampling = field(default_factory=Sampling)  # the defaults of a call
    tokenizer: FileRecord | None = None  # of prompts; present if model.text is
    references: FileRecord | None = None  # what the graphs gave where they were built (vta_rt/references.py)

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files except engines, without repeats."""
        records = [file for record in self.graphs.values() for file in record.files]
        records += [file for file in (self.tokenizer, self.references) if file]
        return tuple({file.file: file for file in records}.values())

    @property
    def precision(self) -> str:
        return "+".join(sorted({record.precision for record in self.graphs.values()}))


def read_manifest(path: Path) -> Manifest:
    """Read and check a ``bundle.json``.

    Raises:
        BundleError: it is missing, is not JSON, has another format version, or a field is wrong, which is named.
    """
    if not os.path.isdir(path.parent):
        raise BundleError(f"{path.parent}: is a file, a bundle's folder is needed")
    if not os.path.exists(path):
        raise BundleError(f"{path.parent}: is not a bundle, it has no {path.name}")
    manifest = read_document(path, Manifest, error=BundleError, versions=range(1, FORMAT_VERSION + 1))
    if problem := _find_contradiction(manifest):
        raise BundleError(f"{path}: {problem}")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``bundle.json``, completely or not at all."""
    text = msgspec.json.format(msgspec.json.encode(asdict(manifest)), indent=2)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text + b"\n")


def signatures(model: ModelConfig, frames: FrameConfig) -> dict[str, tuple[Signature, Signature]]:
    """Inputs and outputs that every graph must have; None stands for a size that the graph may fix or leave open."""
    state: Shape = (None, *model.latent_shape()[1:])
    mel: Shape = (None, 1, None, model.mel_bins)
    step: tuple[Signature, Signature] = (
        {
            **dict.fromkeys(("latents", "previous", "noise"), (state, "float32")),
            "tokens": ((None, None, model.token_width), "float32"),
            "token_mask": ((None, None), "bool"),
            "timestep": ((None,), "float32"),
            "step": ((8,), "float32"),
        },
        dict.fromkeys(("latents_next", "denoised"), (state, "float32")),
    )
    text: dict[str, tuple[Signature, Signature]] = {}
    if model.text is not None:
        # The tokens of the unconditional branch; without prompts they are zeros inside the graph.
        negative = {"negative_tokens": step[0]["tokens"], "negative_mask": step[0]["token_mask"]}
        text["denoiser"] = (step[0] | negative, step[1])
        vectors: Signature = {"tokens": ((None, model.token_width), "float32")}
        text["text_encoder"] = ({"token_ids": ((None, None), "int64")}, vectors)
    images: Shape = (None, frames.size, frames.size, 3)
    latents: Shape = (None, model.latent_channels, None, model.latent_bins)
    return {
        "visual_encoder": ({"frames": (images, "uint8")}, {"tokens": ((None, model.token_width), "float32")}),
        "denoiser": step,
        "denoiser_unguided": step,
        "vae_decoder": ({"latents": (latents, "float32")}, {"mel": (mel, "float32")}),
        "vocoder": ({"mel": (mel, "float32")}, {"wave": ((None, None), "float32")}),
        **text,
    }


def _find_contradiction(manifest: Manifest) -> str | None:
    """Where a manifest contradicts itself, as the end of an error message; None if it does not."""
    for file in manifest.files:
        if not is_file_name(file.file):
            return f"{show(file.file)} is not a file name inside the bundle"
    frames = manifest.frames
    window = manifest.model.frame_count(frames) * frames.size**2 * 3
    if window > MAX_WINDOW_VALUES:
        return f"the frames of a window are {window} values, at most {MAX_WINDOW_VALUES} are allowed"
    if frames.clip_length % frames.clip_stride:
        return f"frames.clip_length {frames.clip_length} is no multiple of frames.clip_stride {frames.clip_stride}"
    if not math.isclose(frames.tokens_per_second, frames.rate / frames.clip_stride, rel_tol=1e-6):
        return (
            f"frames.tokens_per_second is {frames.tokens_per_second:g}, but a token for every {frames.clip_stride} of "
            f"{frames.rate:g} frames a second makes {frames.rate / frames.clip_stride:g}"
        )
    try:
        manifest.sampling.plan(manifest.schedule)
    except OptionError as error:
        return f"its section sampling is not possible: {error}"
    if manifest.model.text is not None and manifest.tokenizer is None:
        return "its model takes prompts, but it lists no tokenizer"
    if manifest.model.text is None and manifest.tokenizer is not None:
        return "it lists a tokenizer, but its model takes no prompts"
    expected = signatures(manifest.model, frames)
    if missing := expected.keys() - manifest.graphs.keys():
        return f"lists no graph {', '.join(name for name in expected if name in missing)}"
    for name, (inputs, outputs) in expected.items():
        record = manifest.graphs[name]
        for kind, specs, wanted in (("inputs", record.inputs, inputs), ("outputs", record.outputs, outputs)):
            if {spec.name for spec in specs} != wanted.keys():
                return f"the {kind} of graph {name} are {', '.join(s.name for s in specs)}, not {', '.join(wanted)}"
            for spec in specs:
                shape, dtype = wanted[spec.name]
                if not _fits(spec, shape, dtype):
                    sizes = ", ".join("any" if size is None else str(size) for size in shape)
                    own = ", ".join(size if isinstance(size, str) else show(size) for size in spec.shape)
                    return (
                        f"{spec.name} of graph {name} is {spec.dtype} [{own}], "
                        f"which is not the model's {dtype} [{sizes}]"
                    )
    return None


def is_file_name(name: str) -> bool:
    """Whether a manifest may list a file of this name: one inside the folder itself, that every system can hold."""
    return (
        name == Path(name).name
        and name not in ("", ".", "..")
        and not set(name) & {"\\", "\0"}
        and len(os.fsencode(name)) < 256
    )


def _fits(spec: TensorSpec, shape: Shape, dtype: str) -> bool:
    return (
        spec.dtype == dtype
        and len(spec.shape) == len(shape)
        and all(
            size is None or isinstance(own, str) or own == size for own, size in zip(spec.shape, shape, strict=True)
        )
    )

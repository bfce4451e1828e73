"""``bundle.json``: its schema as dataclasses, reading, checking and writing it. Knows no other file of a bundle.

Plain JSON, so that a runtime in any language can read it. What the manifest says of the graphs must fit what it says of
the model: that is checked here, once, so that nothing later need doubt it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import BundleError, OptionError
from vta_rt.files import atomic_write, sha256_of
from vta_rt.sampling import Sampling
from vta_rt.schedule import NoiseSchedule

MANIFEST = "bundle.json"
FORMAT_VERSION = 1


Precision = Literal["fp32", "fp16", "bf16", "int8"]
Shape = tuple[int | None, ...]
Signature = dict[str, tuple[Shape, str]]
"""Shape and type of each tensor, by name."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: sizes are integers, or names where the size may vary."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle, as it was written. ``file`` is its name inside the folder, ``size`` in bytes."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class GraphRecord:
    """One exported graph.

    error: relative error against the torch module at fp32, by output, as measured when it was exported.
    key: hash of everything the graph was made from; a build with the same key need not make it again.
    operations: multiplications and additions of one run for one clip of the bundle's length; None where not counted.
    """

    graph: FileRecord
    weights: tuple[FileRecord, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    error: dict[str, float] = field(default_factory=dict)
    key: str = ""
    operations: float | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return (self.graph, *self.weights)


@dataclass(frozen=True)
class Source:
    """Where a bundle came from. ``sha256`` maps each checkpoint file's name to its hash."""

    checkpoint: str
    sha256: dict[str, str]
    exporter: str
    licence: str = ""


@dataclass(frozen=True)
class Manifest:
    """``bundle.json``.

    tokenizer: of prompts; there where ``model.text`` is. engines: names of the folders in ``tensorrt/`` that hold any
    (``vta_rt.backends.tensorrt.engines``). sampling: how the model is sampled unless a call says otherwise.
    """

    format_version: int
    model: ModelConfig
    frames: FrameConfig
    schedule: NoiseSchedule
    graphs: dict[str, GraphRecord]
    source: Source
    engines: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    tokenizer: FileRecord | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file but engines, once."""
        records = [file for record in self.graphs.values() for file in record.files]
        records += [self.tokenizer] if self.tokenizer else []
        return tuple({file.file: file for file in records}.values())

    @property
    def precision(self) -> str:
        return "+".join(sorted({record.precision for record in self.graphs.values()}))


def read_manifest(path: Path) -> Manifest:
    """Read and check a ``bundle.json``.

    Raises:
        BundleError: missing, not JSON, another format version, or a field of the wrong type, which is named.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path.parent}: is not a bundle, it has no {path.name}") from None
    except NotADirectoryError:
        raise BundleError(f"{path.parent}: is a file, a bundle's folder is needed") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        document = msgspec.json.decode(text)
        _check_version(path, document)
        manifest = msgspec.convert(document, Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: is not a valid manifest ({error})") from None
    if problem := _misfit(manifest):
        raise BundleError(f"{path}: {problem}")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``bundle.json`` whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(asdict(manifest)), indent=2)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text + b"\n")


def record_file(path: Path) -> FileRecord:
    """The manifest's record of a file that was just written."""
    return FileRecord(path.name, path.stat().st_size, sha256_of(path))


def is_intact(path: Path, record: FileRecord) -> bool:
    """Whether the file at ``path`` is there, whole, and the one that was recorded; reads all of it."""
    return path.is_file() and path.stat().st_size == record.size and sha256_of(path) == record.sha256


def _check_version(path: Path, document: Any) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(f"{path}: is not a bundle's manifest, it has no format_version")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path}: format version {version} was written by a newer vta_rt; this one reads up to {FORMAT_VERSION}: upgrade it"
        )
    if version < 1:
        raise BundleError(f"{path}: format version {version} does not exist; this vta_rt reads 1 to {FORMAT_VERSION}")


def signatures(model: ModelConfig, frames: FrameConfig) -> dict[str, tuple[Signature, Signature]]:
    """Inputs and outputs every graph must have; None stands for a size that the graph may fix or leave open."""
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
        # The tokens of the unconditional branch, which else are zeros inside the graph.
        negative = {"negative_tokens": step[0]["tokens"], "negative_mask": step[0]["token_mask"]}
        text["denoiser"] = (step[0] | negative, step[1])
        vectors: Signature = {"tokens": ((None, model.token_width), "float32")}
        text["text_encoder"] = ({"token_ids": ((None, None), "int64")}, vectors)
    pictures: Shape = (None, frames.size, frames.size, 3)
    latents: Shape = (None, model.latent_channels, None, model.latent_bins)
    return {
        "visual_encoder": ({"frames": (pictures, "uint8")}, {"tokens": ((None, model.token_width), "float32")}),
        "denoiser": step,
        "denoiser_unguided": step,
        "vae_decoder": ({"latents": (latents, "float32")}, {"mel": (mel, "float32")}),
        "vocoder": ({"mel": (mel, "float32")}, {"wave": ((None, None), "float32")}),
        **text,
    }


def _misfit(manifest: Manifest) -> str | None:
    """What in a manifest contradicts itself or this version, in a few words; None for nothing."""
    frames = manifest.frames
    if frames.clip_length % frames.clip_stride:
        return f"frames.clip_length {frames.clip_length} is no multiple of frames.clip_stride {frames.clip_stride}"
    if not math.isclose(frames.tokens_per_second, frames.rate / frames.clip_stride, rel_tol=1e-6):
        return (
            f"frames.tokens_per_second is {frames.tokens_per_second:g}, but a token for every {frames.clip_stride} of "
            f"{frames.rate:g} pictures a second makes {frames.rate / frames.clip_stride:g}"
        )
    try:
        manifest.sampling.plan(manifest.schedule)
    except OptionError as error:
        return f"its section sampling cannot be: {error}"
    if (manifest.model.text is None) != (manifest.tokenizer is None):
        return (
            "its model takes prompts, but lists no tokenizer" if manifest.model.text else "has a tokenizer, but no text"
        )
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
                    return (
                        f"{spec.name} of graph {name} is {spec.dtype} [{', '.join(map(str, spec.shape))}], "
                        f"which is not the model's {dtype} [{sizes}]"
                    )
    return None


def _fits(spec: TensorSpec, shape: Shape, dtype: str) -> bool:
    return (
        spec.dtype == dtype
        and len(spec.shape) == len(shape)
        and all(
            size is None or isinstance(own, str) or own == size for own, size in zip(spec.shape, shape, strict=True)
        )
    )

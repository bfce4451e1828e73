"""The folders of engines in a bundle, and the index of each, ``engine.json``.

BUNDLE/tensorrt/VARIANT-VERSION-SMxx-PRECISION/*.engine, timing.cache, engine.json
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from vta_rt.bundle import Bundle
from vta_rt.config import ModelConfig
from vta_rt.documents import read_bytes, read_document
from vta_rt.errors import EngineError
from vta_rt.files import atomic_write
from vta_rt.manifest import GraphRecord, Manifest, Precision, TensorSpec
from vta_rt.verification import FileRecord

FOLDER = "tensorrt"  # in a bundle, for both variants
INDEX = "engine.json"
INDEX_VERSION = 1
PLATFORM = f"{sys.platform}-{platform.machine().lower()}"
_REBUILD = "build the engines again"

VariantName = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, order=True)
class Profile:
    """The sizes that an engine of each graph is built for, as an optimization profile of TensorRT with one set of shapes."""

    batch: int = 1  # clips in a call
    seconds: float | None = None  # of sound in a pass; None for the bundle's own

    def __str__(self) -> str:
        """As on the command line: ``4x10.24``."""
        return str(self.batch) if self.seconds is None else f"{self.batch}x{self.seconds:g}"


class EngineTarget(msgspec.Struct, frozen=True, rename={"variant": "flavour"}):
    """What the engines of one folder are built for."""

    variant: VariantName
    version: str  # of the variant
    compute_capabilities: tuple[str, ...]  # of the GPUs they run on
    precision: Precision
    and_later: bool = False  # they also run on GPUs above the highest of these
    platform: str = PLATFORM

    @property
    def folder(self) -> str:
        """The folder's name, such as ``tensorrt-rtx-1.7.1.116-SM80-86-89-120-fp16``."""
        chips = "-".join(capability.replace(".", "") for capability in self.compute_capabilities)
        return f"{self.variant}-{self.version}-SM{chips}-{self.precision}"


@dataclass(frozen=True)
class BuilderOptions:
    """Options of TensorRT's builder."""

    optimization_level: int = 3
    workspace_mb: int | None = None  # GPU memory it may use for scratch; None for all
    max_aux_streams: int | None = None
    tf32: bool = False


@dataclass(frozen=True)
class EngineRecord:
    """One engine: a graph at one set of shapes."""

    graph: str
    file: FileRecord
    inputs: tuple[TensorSpec, ...]  # all sizes are numbers
    outputs: tuple[TensorSpec, ...]
    key: str  # hash of everything the engine was made from (``engine_key``)
    builder: BuilderOptions = field(default_factory=BuilderOptions)
    build_seconds: float = 0.0

    def is_current(self, manifest: Manifest, target: EngineTarget) -> bool:
        """Whether it was built from the graph that the bundle has now."""
        graph = manifest.graphs.get(self.graph)
        return graph is not None and self.key == engine_key(graph, target, self.inputs)


@dataclass(frozen=True)
class EngineIndex:
    """``engine.json``."""

    format_version: int
    target: EngineTarget
    engines: tuple[EngineRecord, ...] = ()

    def profiles(self, model: ModelConfig) -> list[Profile]:
        """Those of the denoisers."""
        latents = (
            spec.shape
            for record in self.engines
            if record.graph == "denoiser"
            for spec in record.inputs
            if spec.name == "latents"
        )
        return sorted(
            {Profile(int(batch), round(int(steps) / model.latents_per_second, 6)) for batch, _, steps, _ in latents}
        )

    def select(self, manifest: Manifest, profile: Profile) -> dict[str, EngineRecord]:
        """The engines of a profile, by graph; graphs without one are left out.

        Raises:
            EngineError: a graph of the bundle cannot have these sizes.
        """
        inputs = {graph: profile_inputs(manifest, graph, profile) for graph in manifest.graphs}
        return {record.graph: record for record in self.engines if record.inputs == inputs.get(record.graph)}


def read_indices(bundle: Bundle) -> Iterator[tuple[Path, EngineIndex | EngineError]]:
    """Every folder of engines that the bundle lists, with its index or what is wrong with it."""
    for name in bundle.manifest.engines:
        folder = bundle.path / FOLDER / name
        try:
            if name != Path(name).name:
                raise EngineError(f"{bundle.path}: {name!r} is not the name of a folder of engines")
            yield folder, read_index(folder)
        except EngineError as error:
            yield folder, error


def check_engines(bundle: Bundle) -> int:
    """Read every engine of a bundle and compare its hash; returns how many there are.

    Raises:
        EngineError: one is missing or altered, or an index is not valid.
    """
    count = 0
    for folder, index in read_indices(bundle):
        if isinstance(index, EngineError):
            raise index
        for record in index.engines:
            read_engine(folder, record.file)
            count += 1
    return count


def describe(bundle: Bundle) -> list[str]:
    """One line for each folder of engines."""
    return [
        str(index) if isinstance(index, EngineError) else _describe(index, bundle.manifest)
        for _, index in read_indices(bundle)
    ]


def _describe(index: EngineIndex, manifest: Manifest) -> str:
    target, profiles = index.target, index.profiles(manifest.model)
    size = sum(record.file.size for record in index.engines) / 1e6
    text = (
        f"{target.variant} {target.version}, {target.precision}, compute capability "
        f"{', '.join(target.compute_capabilities)}{' and later' if target.and_later else ''}; "
        f"{', '.join(map(str, profiles)) or 'none finished'}; {len(index.engines)} files, {size:.1f} MB"
    )
    if not all(record.is_current(manifest, target) for record in index.engines):
        text += "; of other graphs than these: build them again"
    try:
        if any(index.select(manifest, profile).keys() != manifest.graphs.keys() for profile in profiles):
            text += "; not all are there: build them again"
    except EngineError as error:  # the graphs have other sizes by now
        text += f"; {error}"
    return text


def read_engine(folder: Path, record: FileRecord) -> bytes:
    """An engine file with the hash that the index lists: the bytes returned are the bytes that were hashed.

    Raises:
        EngineError: the file cannot be read, is incomplete, or was altered.
    """
    path = folder / record.file
    content = read_bytes(path, error=EngineError, hint=_REBUILD)
    if len(content) != record.size:
        raise EngineError(f"{path}: {describe_size(len(content), record)}")
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise EngineError(f"{path}: its sha256 is not the one in {INDEX}; the file was altered or damaged")
    return content


def describe_size(size: int, record: FileRecord) -> str:
    """What to say of a file of another size than recorded."""
    return f"has {size} bytes where {INDEX} says {record.size}; the file is incomplete"


def engine_precision(manifest: Manifest) -> Precision:
    """The precision that a bundle's engines are called by: its lowest one, even where single graphs keep more."""
    return min((record.precision for record in manifest.graphs.values()), key=("int8", "bf16", "fp16", "fp32").index)


def read_index(folder: Path) -> EngineIndex:
    """Read and check the index of one folder of engines.

    Raises:
        EngineError: it cannot be read, is not JSON, has another format version, or a field of the wrong type, which is named.
    """
    path = folder / INDEX
    versions = range(1, INDEX_VERSION + 1)
    index = read_document(path, EngineIndex, error=EngineError, versions=versions, hint=_REBUILD)
    capabilities = index.target.compute_capabilities
    if not capabilities or not all(re.fullmatch(r"\d+\.\d+", capability) for capability in capabilities):
        raise EngineError(f"{path}: compute capabilities {capabilities} are not such as 8.6")
    for record in index.engines:
        if record.file.file != Path(record.file.file).name:
            raise EngineError(f"{path}: {record.file.file!r} is not a file name inside the folder")
    return index


def write_index(folder: Path, index: EngineIndex) -> None:
    """Write ``engine.json`` as a whole or not at all."""
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n")


def engine_key(graph: GraphRecord, target: EngineTarget, inputs: tuple[TensorSpec, ...]) -> str:
    """Hex sha256 of everything an engine depends on: the graph and its weights, what it is built for, and its shapes."""
    sources = [[file.sha256 for file in graph.files], target, inputs]
    return hashlib.sha256(msgspec.json.encode(sources, order="sorted")).hexdigest()


def profile_inputs(manifest: Manifest, graph: str, profile: Profile) -> tuple[TensorSpec, ...]:
    """A graph's inputs with every size a number.

    The visual encoder takes one clip whatever the batch: what it does in time must not reach into the next clip. The text
    encoder takes one prompt.

    Raises:
        EngineError: the graph fixes a size to another number.
    """
    record, frames, batch = manifest.graphs[graph], manifest.frames, profile.batch
    model = manifest.model if profile.seconds is None else replace(manifest.model, seconds=profile.seconds)
    tokens = model.max_tokens(frames)
    shapes: dict[str, tuple[int, ...]] = {
        "frames": (frames.padded_count(model.frame_count(frames)), frames.size, frames.size, 3),
        **dict.fromkeys(("latents", "previous", "noise"), model.latent_shape(batch)),
        **dict.fromkeys(("tokens", "negative_tokens"), (batch, tokens, model.token_width)),
        **dict.fromkeys(("token_mask", "negative_mask"), (batch, tokens)),
        "token_ids": (1, 0 if model.text is None else model.text.context),
        "timestep": (batch,),
        "step": (8,),
        "mel": (batch, 1, model.mel_frames, model.mel_bins),
    }
    file = record.graph.file
    for spec in record.inputs:
        if (shape := shapes.get(spec.name)) is None:
            raise EngineError(f"{file}: this vta_rt knows no sizes for its input {spec.name}")
        if any(isinstance(own, int) and own != size for own, size in zip(spec.shape, shape, strict=True)):
            raise EngineError(
                f"{file}: takes {spec.name} [{', '.join(map(str, spec.shape))}], not {list(shape)}; "
                f"a bundle for {Profile(batch, model.seconds)} is needed"
            )
    return tuple(replace(spec, shape=shapes[spec.name]) for spec in record.inputs)

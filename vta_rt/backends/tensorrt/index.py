"""The folders of engines in a bundle, and the index of each, ``engine.json``: its schema, reading and writing it.

    BUNDLE/tensorrt/FLAVOUR-VERSION-SMxx-PRECISION/*.engine, timing.cache, engine.json

Knows what engines are made from and called by; knows no TensorRT, no GPU, and not which engines suit a machine.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from vta_rt.bundle import Bundle
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import EngineError
from vta_rt.files import atomic_write
from vta_rt.manifest import FileRecord, GraphRecord, Manifest, Precision, TensorSpec

FOLDER = "tensorrt"  # in a bundle, whichever the flavour
INDEX = "engine.json"
FORMAT_VERSION = 1
PLATFORM = f"{sys.platform}-{platform.machine().lower()}"

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
Sizes = tuple[int, ...]

_CAPABILITY = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Target:
    """What one folder of engines is built for.

    compute_capabilities: of the GPUs it runs on. and_later: also on those above the highest of these.
    """

    flavour: FlavourName
    version: str
    compute_capabilities: tuple[str, ...]
    precision: Precision
    and_later: bool = False
    platform: str = PLATFORM

    @property
    def folder(self) -> str:
        """The folder's name: ``tensorrt-rtx-1.7.1.116-SM80-86-89-120-fp16``."""
        chips = "-".join(capability.replace(".", "") for capability in self.compute_capabilities)
        return f"{self.flavour}-{self.version}-SM{chips}-{self.precision}"


@dataclass(frozen=True)
class BuilderOptions:
    """What the builder was told beside the graph. workspace_mb: of GPU memory it may use for scratch, None for all."""

    optimization_level: int = 3
    workspace_mb: int | None = None
    max_aux_streams: int | None = None
    tf32: bool = False


@dataclass(frozen=True)
class EngineRecord:
    """One engine: a graph at one set of shapes, every size a number.

    key: hash of everything it was made from (``engine_key``). seconds: it took to build.
    """

    graph: str
    file: FileRecord
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    key: str
    builder: BuilderOptions = field(default_factory=BuilderOptions)
    build_seconds: float = 0.0


@dataclass(frozen=True)
class EngineIndex:
    """``engine.json``."""

    format_version: int
    target: Target
    engines: tuple[EngineRecord, ...] = ()


def listed(bundle: Bundle) -> Iterator[tuple[Path, EngineIndex | EngineError]]:
    """Every folder of engines the bundle lists, with its index or what is wrong with it."""
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
    for folder, index in listed(bundle):
        if isinstance(index, EngineError):
            raise index
        for record in index.engines:
            read_engine(folder, record.file)
            count += 1
    return count


def describe(bundle: Bundle) -> list[str]:
    """One line for each folder of engines."""
    lines = []
    for _, index in listed(bundle):
        if isinstance(index, EngineError):
            lines.append(str(index))
            continue
        target, graphs = index.target, bundle.manifest.graphs
        size = sum(record.file.size for record in index.engines) / 1e6
        found = buckets(index, bundle.manifest.model)
        unfinished = any(not _is_whole(index, bundle.manifest, *bucket) for bucket in found)
        sizes = ", ".join(bucket_name(*bucket) for bucket in found)
        old = any(
            record.graph not in graphs or record.key != engine_key(graphs[record.graph], target, record.inputs)
            for record in index.engines
        )
        lines.append(
            f"{target.flavour} {target.version}, {target.precision}, compute capability "
            f"{', '.join(target.compute_capabilities)}{' and later' if target.and_later else ''}; {sizes or 'none finished'}; "
            f"{len(index.engines)} files, {size:.1f} MB{'; of other graphs than these: build them again' if old else ''}"
            f"{'; not all are there: build them again' if unfinished else ''}"
        )
    return lines


def _is_whole(index: EngineIndex, manifest: Manifest, batch: int, seconds: float) -> bool:
    """An engine of every graph is listed for a bucket."""
    model, there = replace(manifest.model, seconds=seconds), {(record.graph, record.inputs) for record in index.engines}
    try:
        return all(
            (name, static_inputs(graph, model, manifest.frames, batch)) in there
            for name, graph in manifest.graphs.items()
        )
    except EngineError:  # the graphs are others by now
        return False


def read_engine(folder: Path, record: FileRecord) -> bytes:
    """An engine file, whole and with the hash the index lists: the bytes returned are those that were hashed.

    Raises:
        EngineError: the file is gone, cannot be read, is not whole, or was altered.
    """
    path = folder / record.file
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise EngineError(f"{path}: is missing; build the engines again") from None
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) != record.size:
        raise EngineError(not_whole(path, len(content), record))
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise EngineError(f"{path}: its sha256 is not the one in {INDEX}; the file was altered or damaged")
    return content


def engine_precision(manifest: Manifest) -> Precision:
    """What a bundle's engines are called by: its lowest precision, whatever single graph keeps more."""
    return min((record.precision for record in manifest.graphs.values()), key=("int8", "bf16", "fp16", "fp32").index)


def read_index(folder: Path) -> EngineIndex:
    """Read and check the index of one folder of engines.

    Raises:
        EngineError: missing, not JSON, another format version, or a field of the wrong type, which is named.
    """
    path = folder / INDEX
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise EngineError(f"{path}: is listed in the bundle, but is not there; build the engines again") from None
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        document: Any = msgspec.json.decode(text)
        version = document.get("format_version") if isinstance(document, dict) else None
        if version != FORMAT_VERSION:
            raise EngineError(f"{path}: format version {version} is not the one this vta_rt reads, {FORMAT_VERSION}")
        index = msgspec.convert(document, EngineIndex)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"{path}: is not a valid index ({error})") from None
    if not index.target.compute_capabilities or not all(map(_CAPABILITY.fullmatch, index.target.compute_capabilities)):
        raise EngineError(f"{path}: compute capabilities {index.target.compute_capabilities} are not such as 8.6")
    for record in index.engines:
        if record.file.file != Path(record.file.file).name:
            raise EngineError(f"{path}: {record.file.file!r} is not a file name inside the folder")
    return index


def write_index(folder: Path, index: EngineIndex) -> None:
    """Write ``engine.json`` whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(asdict(index)), indent=2)
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_bytes(text + b"\n")


def engine_key(graph: GraphRecord, target: Target, inputs: tuple[TensorSpec, ...]) -> str:
    """Hex sha256 of everything an engine depends on: the graph and its weights, what it is built for, and its shapes."""
    made_from = [[file.sha256 for file in graph.files], asdict(target), [asdict(spec) for spec in inputs]]
    return hashlib.sha256(msgspec.json.encode(made_from, order="sorted")).hexdigest()


def static_inputs(graph: GraphRecord, model: ModelConfig, frames: FrameConfig, batch: int) -> tuple[TensorSpec, ...]:
    """A graph's inputs with every size a number, for ``batch`` clips of the model's length.

    The visual encoder takes one clip whatever the batch: what it does in time must not reach into the next clip. The text
    encoder takes one prompt.

    Raises:
        EngineError: the graph fixes a size to another number.
    """
    tokens = model.max_tokens(frames)
    latents: Sizes = model.latent_shape(batch)
    shapes: dict[str, Sizes] = {
        "frames": (frames.padded_count(model.frame_count(frames)), frames.size, frames.size, 3),
        **dict.fromkeys(("latents", "previous", "noise"), latents),
        **dict.fromkeys(("tokens", "negative_tokens"), (batch, tokens, model.token_width)),
        **dict.fromkeys(("token_mask", "negative_mask"), (batch, tokens)),
        "token_ids": (1, 0 if model.text is None else model.text.context),
        "timestep": (batch,),
        "step": (8,),
        "mel": (batch, 1, model.mel_frames, model.mel_bins),
    }
    for spec in graph.inputs:
        if spec.name not in shapes:
            raise EngineError(f"{graph.graph.file}: this vta_rt knows no sizes for its input {spec.name}")
        for own, size in zip(spec.shape, shapes[spec.name], strict=True):
            if isinstance(own, int) and own != size:
                raise EngineError(
                    f"{graph.graph.file}: takes {spec.name} [{', '.join(map(str, spec.shape))}], not "
                    f"{list(shapes[spec.name])}; a bundle for {bucket_name(batch, model.seconds)} is needed"
                )
    return tuple(replace(spec, shape=shapes[spec.name]) for spec in graph.inputs)


def bucket_name(batch: int, seconds: float) -> str:
    """``4x10.24``: batch and seconds, as they are given on the command line."""
    return f"{batch}x{seconds:g}"


def buckets(index: EngineIndex, model: ModelConfig) -> list[tuple[int, float]]:
    """Batch and seconds of the denoisers in a folder."""
    found = set()
    for record in index.engines:
        for spec in record.inputs:
            if record.graph == "denoiser" and spec.name == "latents":
                batch, _, steps, _ = (int(size) for size in spec.shape)
                found.add((batch, round(steps / model.latents_per_second, 6)))
    return sorted(found)


def not_whole(path: Path, size: int, record: FileRecord) -> str:
    """What to say of a file of another size than was recorded."""
    return f"{path}: has {size} bytes where {INDEX} says {record.size}; the file is not whole"

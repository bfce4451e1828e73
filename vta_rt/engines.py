"""The engines of a bundle: their folders, their index ``engine.json``, and which of them suit a machine.

    BUNDLE/tensorrt/FLAVOUR-VERSION-SMxx-PRECISION/*.engine, timing.cache, engine.json

Knows files and what is written of them; knows no TensorRT and no GPU, so that a machine without either can say why. An
engine file is native code: whoever deserialises one takes its bytes from ``Engines.load``, which has checked their hash.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from vta_rt.bundle import Bundle
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import EngineError
from vta_rt.files import replacing
from vta_rt.manifest import FileRecord, GraphRecord, Manifest, Precision, TensorSpec

FOLDER = "tensorrt"  # in a bundle, whichever the flavour
INDEX = "engine.json"
FORMAT_VERSION = 1
PLATFORM = f"{sys.platform}-{platform.machine().lower()}"

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """What would run engines: the installed TensorRT and the GPU it would run them on.

    flavour, version: of the installed library, as ``vta_rt.backends.flavours`` gives them. compute_capability: of the GPU,
    such as ``8.6``.
    """

    flavour: FlavourName
    version: str
    compute_capability: str
    platform: str = PLATFORM


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


@dataclass(frozen=True)
class Engines:
    """The engines of one folder that suit a machine, one for every graph of the bundle.

    records: by graph; their inputs and outputs are what the engine takes and gives, all sizes fixed.
    """

    folder: Path
    target: Target
    batch: int
    seconds: float
    records: dict[str, EngineRecord]

    def load(self, graph: str) -> bytes:
        """The engine file of a graph, whole and with the hash the index lists.

        The bytes returned are those that were hashed, whatever happens to the file meanwhile.

        Raises:
            EngineError: the file is gone, cannot be read, is not whole, or was altered.
        """
        record = self.records[graph].file
        path = self.folder / record.file
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise EngineError(f"{path}: is gone; build the engines again") from None
        except OSError as error:
            raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
        if len(content) != record.size:
            raise EngineError(_not_whole(path, len(content), record))
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise EngineError(f"{path}: its sha256 is not the one in {INDEX}; the file was altered or damaged")
        return content


def find_engines(
    bundle: Bundle,
    machine: Machine,
    *,
    precision: Precision | None = None,
    batch: int = 1,
    seconds: float | None = None,
) -> Engines:
    """The engines of a bundle that suit a machine, chosen by what is written of them and by their files' sizes.

    Hashes are checked when an engine is loaded (``Engines.load``).

    Args:
        precision: of the graphs; None for the bundle's own.
        batch: clips in one call. seconds: of sound in one pass; None for the bundle's own.

    Raises:
        EngineError: there are none, in one line that says why; of several folders, of the one that is nearest.
    """
    manifest = bundle.manifest
    wanted = _Wanted(
        manifest, machine, precision or engine_precision(manifest), batch, seconds or manifest.model.seconds
    )
    if not manifest.engines:
        raise EngineError(f"{bundle.path}: has no engines; {_remedy(bundle.path, machine.flavour)}")
    nearest = (-1, "")
    for name in manifest.engines:
        folder = bundle.path / FOLDER / name
        try:
            index = read_index(folder)
        except EngineError as error:
            nearest = max(nearest, (0, str(error)), key=lambda problem: problem[0])
            continue
        for passed, check in enumerate(_CHECKS):
            if problem := check(folder, index, wanted):
                text = f"{folder}: {problem}; {_remedy(bundle.path, machine.flavour)}"
                nearest = max(nearest, (passed, text), key=lambda problem: problem[0])
                break
        else:
            return Engines(folder, index.target, batch, wanted.seconds, wanted.records(index))
    raise EngineError(nearest[1])


def engine_precision(manifest: Manifest) -> Precision:
    """What a bundle's engines are called by: its lowest precision, whatever single graph keeps more."""
    return min((record.precision for record in manifest.graphs.values()), key=("bf16", "fp16", "fp32").index)


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
    for record in index.engines:
        if record.file.file != Path(record.file.file).name:
            raise EngineError(f"{path}: {record.file.file!r} is not a file name inside the folder")
    return index


def write_index(folder: Path, index: EngineIndex) -> None:
    """Write ``engine.json`` whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(asdict(index)), indent=2)
    with replacing(folder / INDEX) as temporary:
        temporary.write_bytes(text + b"\n")


def engine_key(graph: GraphRecord, target: Target, inputs: tuple[TensorSpec, ...]) -> str:
    """Hex sha256 of everything an engine depends on: the graph and its weights, what it is built for, and its shapes."""
    made_from = [[file.sha256 for file in graph.files], asdict(target), [asdict(spec) for spec in inputs]]
    return hashlib.sha256(msgspec.json.encode(made_from, order="sorted")).hexdigest()


def static_inputs(graph: GraphRecord, model: ModelConfig, frames: FrameConfig, batch: int) -> tuple[TensorSpec, ...]:
    """A graph's inputs with every size a number, for ``batch`` clips of the model's length.

    The visual encoder takes one clip whatever the batch: what it does in time must not reach into the next clip.

    Raises:
        EngineError: the graph fixes a size to another number.
    """
    count = model.frame_count(frames)
    latents: Sizes = model.latent_shape(batch)
    shapes: dict[str, Sizes] = {
        "frames": (count, frames.size, frames.size, 3),
        **dict.fromkeys(("latents", "previous", "noise"), latents),
        "tokens": (batch, count, model.token_width),
        "token_mask": (batch, count),
        "timestep": (batch,),
        "step": (8,),
        "mel": (batch, 1, model.mel_frames, model.mel_bins),
    }
    for spec in graph.inputs:
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


@dataclass(frozen=True)
class _Wanted:
    """What is looked for."""

    manifest: Manifest
    machine: Machine
    precision: Precision
    batch: int
    seconds: float

    def inputs(self, graph: str) -> tuple[TensorSpec, ...]:
        model = replace(self.manifest.model, seconds=self.seconds)
        return static_inputs(self.manifest.graphs[graph], model, self.manifest.frames, self.batch)

    def records(self, index: EngineIndex) -> dict[str, EngineRecord]:
        """The engines of the wanted shapes, by graph."""
        inputs = {graph: self.inputs(graph) for graph in self.manifest.graphs}
        return {record.graph: record for record in index.engines if record.inputs == inputs.get(record.graph)}


def _flavour(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    if (built := index.target.flavour) != wanted.machine.flavour:
        return f"was built by {built}, this machine has {wanted.machine.flavour}"
    return None


def _version(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    if (built := index.target.version) != wanted.machine.version:
        return f"was built by {index.target.flavour} {built}, this machine has {wanted.machine.version}"
    return None


def _platform(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    built, here = index.target.platform, wanted.machine.platform
    if wanted.machine.flavour == "tensorrt-rtx":  # its engines are the same on every system
        built, here = built.partition("-")[2], here.partition("-")[2]
    return None if built == here else f"was built on {built}, this machine is {here}"


def _compute_capability(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    built, here = index.target.compute_capabilities, wanted.machine.compute_capability
    if here in built or (index.target.and_later and _number(here) > max(map(_number, built))):
        return None
    return f"was built for compute capability {', '.join(built)}, this GPU has {here}"


def _precision(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    built = index.target.precision
    return None if built == wanted.precision else f"is {built}, and {wanted.precision} is wanted"


def _shape(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    name = bucket_name(wanted.batch, wanted.seconds)
    try:
        records = wanted.records(index)
    except EngineError as error:
        return str(error)
    if missing := wanted.manifest.graphs.keys() - records.keys():
        there = ", ".join(bucket_name(*bucket) for bucket in buckets(index, wanted.manifest.model))
        return f"has no engine of {', '.join(sorted(missing))} for {name} (batch x seconds), only for {there or 'none'}"
    return None


def _same_graph(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    for graph, record in wanted.records(index).items():
        if record.key != engine_key(wanted.manifest.graphs[graph], index.target, record.inputs):
            return f"{record.file.file} was built from another {graph} than the bundle's"
    return None


def _files(folder: Path, index: EngineIndex, wanted: _Wanted) -> str | None:
    for record in wanted.records(index).values():
        path = folder / record.file.file
        try:
            size = path.stat().st_size
        except OSError:
            return f"{record.file.file} is missing"
        if size != record.file.size:
            return _not_whole(Path(record.file.file), size, record.file)
    return None


_Check = Callable[[Path, EngineIndex, _Wanted], str | None]
_CHECKS: tuple[_Check, ...] = (
    _flavour,
    _version,
    _platform,
    _compute_capability,
    _precision,
    _shape,
    _same_graph,
    _files,
)
"""Each gives the reason why a folder does not suit, None if it does; in the order in which a folder comes nearer."""


def _number(capability: str) -> tuple[int, ...]:
    """``12.0`` above ``8.9``."""
    return tuple(int(part) for part in capability.split("."))


def _not_whole(path: Path, size: int, record: FileRecord) -> str:
    return f"{path}: has {size} bytes where {INDEX} says {record.size}; the file is not whole"


def _remedy(bundle: Path, flavour: str) -> str:
    return f"to build them here: python -m export.build --bundle {bundle} --engine {flavour}"


def listed(bundle: Bundle) -> Iterator[tuple[Path, EngineIndex | EngineError]]:
    """Every folder of engines the bundle lists, with its index or what is wrong with it."""
    for name in bundle.manifest.engines:
        folder = bundle.path / FOLDER / name
        try:
            yield folder, read_index(folder)
        except EngineError as error:
            yield folder, error

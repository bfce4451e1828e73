"""Which of a bundle's engines suit a machine, and why others do not.

Needs neither TensorRT nor a GPU, so that a machine without either can be told.
An engine file is native code: whoever deserialises one takes its bytes from ``Engines.load``, which has checked their hash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vta_rt.backends.tensorrt.index import (
    PLATFORM,
    EngineIndex,
    EngineRecord,
    FlavourName,
    Target,
    bucket_name,
    buckets,
    engine_key,
    engine_precision,
    listed,
    not_whole,
    read_engine,
    static_inputs,
)
from vta_rt.bundle import Bundle
from vta_rt.errors import EngineError
from vta_rt.manifest import Manifest, Precision, TensorSpec


@dataclass(frozen=True)
class Machine:
    """What would run engines: the installed TensorRT and the GPU it would run them on.

    flavour, version: of the installed library, as ``flavours.load`` gives them. compute_capability: of the GPU,
    such as ``8.6``.
    """

    flavour: FlavourName
    version: str
    compute_capability: str
    platform: str = PLATFORM


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
        return read_engine(self.folder, self.records[graph].file)


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
    for folder, index in listed(bundle):
        if isinstance(index, EngineError):
            nearest = max(nearest, (0, str(index)), key=lambda problem: problem[0])
            continue
        for passed, check in enumerate(_CHECKS):
            if problem := check(folder, index, wanted):
                text = f"{folder}: {problem}; {_remedy(bundle.path, machine.flavour)}"
                nearest = max(nearest, (passed, text), key=lambda problem: problem[0])
                break
        else:
            return Engines(folder, index.target, batch, wanted.seconds, wanted.records(index))
    raise EngineError(nearest[1])


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
            return not_whole(Path(record.file.file), size, record.file)
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


def _remedy(bundle: Path, flavour: str) -> str:
    return f"to build them here: python -m export.build --bundle {bundle} --engine {flavour}"

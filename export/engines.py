"""The graphs of a bundle to engines. Decides which to build, and what an earlier build left that will do.

Each engine is written whole and then listed in ``engine.json``, so that a build that is stopped leaves a folder in which
every engine listed is there; the next build goes on after them. Knows files; the builder is ``export.tensorrt_builder``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.report import BuildReport
from export.staging import staging_folder
from export.tensorrt_builder import EngineBuilder
from vta_rt.backends.tensorrt.engines import Machine, find_engines
from vta_rt.backends.tensorrt.flavours import (
    FLAVOURS,
    Flavour,
    compute_capability,
    load,
    rtx_check_gpu,
    rtx_compute_capability,
)
from vta_rt.backends.tensorrt.index import (
    FOLDER,
    FORMAT_VERSION,
    INDEX,
    BuilderOptions,
    EngineIndex,
    EngineRecord,
    Target,
    bucket_name,
    engine_key,
    engine_precision,
    read_index,
    static_inputs,
    write_index,
)
from vta_rt.bundle import Bundle
from vta_rt.errors import EngineError, OptionError, check_integer
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.manifest import MANIFEST, FileRecord, TensorSpec, is_intact, write_manifest

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Bucket:
    """One set of shapes: clips in a call, and seconds of sound in a pass; None for the bundle's own."""

    batch: int = 1
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """``4`` or ``4x10.24``.

        Raises:
            OptionError: neither.
        """
        batch, x, seconds = text.lower().partition("x")
        try:
            bucket = cls(int(batch), float(seconds) if x else None)
        except ValueError:
            raise OptionError(f"bucket {text!r} is not BATCH or BATCHxSECONDS, such as 4 or 4x10.24") from None
        if bucket.batch < 1 or not 0 < (1 if bucket.seconds is None else bucket.seconds) < math.inf:
            raise OptionError(f"bucket {text!r}: a batch of 1 or more and more than 0 seconds are needed")
        return bucket


@dataclass(frozen=True)
class _Wanted:
    """One engine to be there at the end."""

    graph: str
    bucket: str
    inputs: tuple[TensorSpec, ...]
    key: str

    @property
    def file(self) -> str:
        return f"{self.graph}-{self.bucket}.engine"


class EngineBuild:
    """Engines of one flavour, to be built for a bundle that is, or will be, there.

    Made before the bundle is exported, so that a machine that cannot build is told so first.

    Args:
        compute_capabilities: such as ``8.9``, of the GPUs to build for; ``current`` for the one that is here; none for all
            the flavour builds for at once.

    Raises:
        OptionError: a flavour, bucket or option that does not exist.
        EngineError: the flavour is not installed, or cannot build here or for these.
    """

    def __init__(
        self,
        flavour: str,
        buckets: Sequence[Bucket] = (Bucket(),),
        options: BuilderOptions | None = None,
        compute_capabilities: Sequence[str] = (),
    ) -> None:
        if flavour not in FLAVOURS:
            raise OptionError(f"engine {flavour!r} is unknown; choose one of {', '.join(FLAVOURS)}")
        self.flavour: Flavour = FLAVOURS[flavour]
        self.buckets = tuple(dict.fromkeys(buckets)) or (Bucket(),)
        self.options = options or BuilderOptions()
        _check_options(self.options)
        self._asked_for = tuple(dict.fromkeys(compute_capabilities))
        self._trt, self._version = load(self.flavour)
        self._check_compute_capabilities()
        self._runs_on = self._asked_for or self.flavour.compute_capabilities
        if self.flavour.needs_gpu or "current" in self._asked_for:
            self._runs_on = (_of_this_gpu(flavour),)
        if "current" in self._asked_for and not self.flavour.needs_gpu:
            rtx_check_gpu(self._trt, self._runs_on[0])
        self._builder = EngineBuilder(self._trt, self.flavour, self.options, self._asked_for)

    def _check_compute_capabilities(self) -> None:
        asked_for = self._asked_for
        if self.flavour.needs_gpu:
            if asked_for not in ((), ("current",)):
                raise OptionError(f"{self.flavour.name} builds for the GPU it runs on, not for {', '.join(asked_for)}")
            return
        if "current" in asked_for and len(asked_for) > 1:
            raise OptionError("compute capability current stands for the GPU that is here, and goes with no other")
        for capability in asked_for:
            rtx_compute_capability(self._trt, capability)

    def run(self, path: Path, report: BuildReport) -> Path:
        """Build what is missing, and list it.

        Args:
            path: the bundle's folder.

        Returns:
            the folder of engines.

        Raises:
            BundleError: no bundle, or a damaged one. EngineError: TensorRT cannot build a graph, or a graph cannot have
            the shapes of a bucket. OutputError: the folder cannot be written.
        """
        path = Bundle(path).path
        with staging_folder(path), raise_output_errors(path):
            bundle = Bundle(path)  # as it is now that nobody else can change it
            target = self._target(bundle)
            wanted = list(self._wanted(bundle, target))
            folder = path / FOLDER / target.folder
            folder.mkdir(parents=True, exist_ok=True)
            index = EngineIndex(FORMAT_VERSION, target, tuple(self._kept(bundle, folder, target, wanted, report)))
            write_index(folder, index)
            _clear_away(folder, index)
            _list(bundle, target.folder)
            self._builder.timing_cache = _read(folder / TIMING_CACHE)
            for item in wanted:
                if all(record.key != item.key for record in index.engines):
                    record = self._build(bundle, folder, item, report)
                    index = replace(index, engines=(*index.engines, record))
                    write_index(folder, index)
        self._check(Bundle(path), target)
        return folder

    def _target(self, bundle: Bundle) -> Target:
        later = self.flavour.and_later and not self._asked_for
        return Target(self.flavour.name, self._version, self._runs_on, engine_precision(bundle.manifest), later)

    def _wanted(self, bundle: Bundle, target: Target) -> Iterator[_Wanted]:
        manifest = bundle.manifest
        for graph, record in manifest.graphs.items():
            items = {}  # by key: an encoder's is the same for every batch
            for bucket in self.buckets:
                seconds = _rounded(bundle, bucket.seconds)
                inputs = static_inputs(record, replace(manifest.model, seconds=seconds), manifest.frames, bucket.batch)
                key = engine_key(record, target, inputs)
                batch = 1 if graph.endswith("_encoder") else bucket.batch
                items[key] = _Wanted(graph, bucket_name(batch, seconds), inputs, key)
            yield from items.values()

    def _kept(
        self, bundle: Bundle, folder: Path, target: Target, wanted: list[_Wanted], report: BuildReport
    ) -> Iterator[EngineRecord]:
        """Engines of an earlier build that are whole and of this very bundle, those of other buckets included."""
        try:
            old = read_index(folder)
        except EngineError:
            return
        asked_for = {item.key for item in wanted}
        for record in old.engines if old.target == target else ():
            graph = bundle.manifest.graphs.get(record.graph)
            if graph is None or record.key != engine_key(graph, target, record.inputs):
                continue
            if record.key in asked_for and record.builder != self.options:
                continue
            if is_intact(folder / record.file.file, record.file):
                report.engine(record, kept=True)
                yield record

    def _build(self, bundle: Bundle, folder: Path, item: _Wanted, report: BuildReport) -> EngineRecord:
        start = time.perf_counter()
        with report.step(f"{item.graph}: {self.flavour.name} engine for {item.bucket}"), report.phases() as phases:
            engine, outputs = self._builder.build(bundle.graph_path(item.graph), item.inputs, phases)
        with atomic_write(folder / item.file) as temporary:
            temporary.write_bytes(engine)
        if self._builder.timing_cache:
            with atomic_write(folder / TIMING_CACHE) as temporary:
                temporary.write_bytes(self._builder.timing_cache)
        file = FileRecord(item.file, len(memoryview(engine)), hashlib.sha256(engine).hexdigest())
        seconds = round(time.perf_counter() - start, 1)
        record = EngineRecord(item.graph, file, item.inputs, outputs, item.key, self.options, seconds)
        report.engine(record, kept=False)
        return record

    def _check(self, bundle: Bundle, target: Target) -> None:
        """What was built is what a machine of its kind will find."""
        machine = Machine(target.flavour, target.version, target.compute_capabilities[0])
        for bucket in self.buckets:
            find_engines(bundle, machine, batch=bucket.batch, seconds=_rounded(bundle, bucket.seconds))


def _of_this_gpu(flavour: str) -> str:
    try:
        return compute_capability()
    except EngineError as error:
        raise EngineError(f"{error}, and {flavour} was to build for the one here; tensorrt-rtx needs none") from error


def _check_options(options: BuilderOptions) -> None:
    check_integer("optimization level", options.optimization_level, 0, 5)
    if options.workspace_mb is not None:
        check_integer("workspace, in MB,", options.workspace_mb, 1)
    if options.max_aux_streams is not None:
        check_integer("max_aux_streams", options.max_aux_streams, 0)


def _rounded(bundle: Bundle, seconds: float | None) -> float:
    """Seconds up to the next length the denoiser takes, where it takes more than one."""
    model = bundle.manifest.model
    if seconds is None:
        return model.seconds
    steps = next(spec.shape[2] for spec in bundle.manifest.graphs["denoiser"].inputs if spec.name == "latents")
    if isinstance(steps, int):
        return seconds
    multiple = int(steps.partition("*")[0])  # such as 8*blocks
    blocks = math.ceil(round(seconds * model.latents_per_second / multiple, 6))
    return round(blocks * multiple / model.latents_per_second, 6)


def _clear_away(folder: Path, index: EngineIndex) -> None:
    """Remove what an earlier build left and nothing names any more."""
    named = {record.file.file for record in index.engines}
    for path in {*folder.glob("*.engine"), *folder.glob(".*.part*")}:
        if path.name not in named:
            path.unlink()


def _list(bundle: Bundle, name: str) -> None:
    """Add a folder to the bundle's manifest, and drop those that are gone."""
    there = {engines for engines in bundle.manifest.engines if (bundle.path / FOLDER / engines / INDEX).is_file()}
    if (engines := tuple(sorted(there | {name}))) != bundle.manifest.engines:
        write_manifest(bundle.path / MANIFEST, replace(bundle.manifest, engines=engines))


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""

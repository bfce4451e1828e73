"""The graphs of a bundle to engines: decides which to build, and which engines of an earlier build are kept.

Each engine is written as a whole and then listed in ``engine.json``, so that a build that is stopped leaves a folder in which
every engine listed is there; the next build goes on after them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.bundle_folder import staging_folder
from export.report import BuildReport
from export.tensorrt_builder import EngineBuilder
from vta_rt.backends.tensorrt.cuda import compute_capability
from vta_rt.backends.tensorrt.engines import Machine, find_engines
from vta_rt.backends.tensorrt.index import (
    FOLDER,
    INDEX,
    INDEX_VERSION,
    BuilderOptions,
    EngineIndex,
    EngineRecord,
    EngineTarget,
    Profile,
    engine_key,
    engine_precision,
    profile_inputs,
    read_index,
    write_index,
)
from vta_rt.backends.tensorrt.variants import VARIANTS, load, rtx_check_gpu, rtx_compute_capability
from vta_rt.bundle import Bundle
from vta_rt.errors import DeviceError, EngineError, OptionError, check_integer
from vta_rt.files import atomic_write, raise_output_errors
from vta_rt.manifest import MANIFEST, TensorSpec, write_manifest
from vta_rt.verification import FileRecord, matches

TIMING_CACHE = "timing.cache"


def parse_profile(text: str) -> Profile:
    """``4`` or ``4x10.24``: clips in a call, and seconds of sound in a pass.

    Raises:
        OptionError: neither.
    """
    batch, x, seconds = text.lower().partition("x")
    try:
        profile = Profile(int(batch), float(seconds) if x else None)
    except ValueError:
        raise OptionError(f"profile {text!r} is not BATCH or BATCHxSECONDS, such as 4 or 4x10.24") from None
    if profile.batch < 1 or not 0 < (1 if profile.seconds is None else profile.seconds) < math.inf:
        raise OptionError(f"profile {text!r}: a batch of 1 or more and more than 0 seconds are needed")
    return profile


@dataclass(frozen=True)
class _WantedEngine:
    """An engine that is there once the build is done."""

    graph: str
    profile: Profile
    inputs: tuple[TensorSpec, ...]
    key: str

    @property
    def file(self) -> str:
        return f"{self.graph}-{self.profile}.engine"


class EngineBuild:
    """A build of engines by one variant of TensorRT.

    Made before the bundle is exported, so that a machine that cannot build fails at once.

    Args:
        compute_capabilities: of the GPUs to build for, such as ``8.9``, or ``current`` for the one that is here; none for
            all that the variant builds for at once.

    Raises:
        OptionError: a variant, profile or option that does not exist.
        EngineError: the variant is not installed, or cannot build here or for these GPUs.
    """

    def __init__(
        self,
        variant: str,
        profiles: Sequence[Profile] = (),
        options: BuilderOptions | None = None,
        compute_capabilities: Sequence[str] = (),
    ) -> None:
        if variant not in VARIANTS:
            raise OptionError(f"engine {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
        self.variant = VARIANTS[variant]
        self.profiles = tuple(dict.fromkeys(profiles)) or (Profile(),)
        self.options = options or BuilderOptions()
        _check_options(self.options)
        self._asked_for = tuple(dict.fromkeys(compute_capabilities))
        self._trt, self._version = load(self.variant)
        self._runs_on = self._check_compute_capabilities()
        self._builder = EngineBuilder(self._trt, self.variant, self.options, self._asked_for)

    def _check_compute_capabilities(self) -> tuple[str, ...]:
        """What the engines will run on."""
        variant, asked_for = self.variant, self._asked_for
        if variant.needs_gpu and asked_for not in ((), ("current",)):
            raise OptionError(f"{variant.name} builds for the GPU it runs on, not for {', '.join(asked_for)}")
        if "current" in asked_for and len(asked_for) > 1:
            raise OptionError("compute capability current stands for the GPU that is here, and goes with no other")
        if not variant.needs_gpu:
            for capability in asked_for:
                rtx_compute_capability(self._trt, capability)
            if "current" not in asked_for:
                return asked_for or variant.compute_capabilities
        try:
            here = compute_capability()
        except DeviceError as error:
            raise EngineError(
                f"{error}, and {variant.name} was to build for the one here; tensorrt-rtx needs none"
            ) from error
        if not variant.needs_gpu:
            rtx_check_gpu(self._trt, here)
        return (here,)

    def run(self, path: Path, report: BuildReport) -> Path:
        """Build the engines that are missing, and list them.

        Args:
            path: the bundle's folder.

        Returns:
            the folder of engines.

        Raises:
            BundleError: no bundle, or a damaged one.
            EngineError: TensorRT cannot build a graph, or a graph cannot have the sizes of a profile.
            OutputError: the folder cannot be written.
        """
        path = Bundle(path).path
        with staging_folder(path), raise_output_errors(path):
            bundle = Bundle(path)  # read again, now that nobody else can change it
            later = self.variant.and_later and not self._asked_for
            precision = engine_precision(bundle.manifest)
            target = EngineTarget(self.variant.name, self._version, self._runs_on, precision, later)
            wanted = list(self._wanted(bundle, target))
            folder = path / FOLDER / target.folder
            folder.mkdir(parents=True, exist_ok=True)
            index = EngineIndex(INDEX_VERSION, target, tuple(self._kept(bundle, folder, target, wanted)))
            for record in index.engines:
                report.add_engine(record, kept=True)
            write_index(folder, index)
            _remove_unlisted(folder, index)
            _list_folder(bundle, target.folder)
            cache = folder / TIMING_CACHE
            self._builder.timing_cache = cache.read_bytes() if cache.is_file() else b""
            for item in wanted:
                if all(record.key != item.key for record in index.engines):
                    record = self._build(bundle, folder, item, report)
                    index = replace(index, engines=(*index.engines, record))
                    write_index(folder, index)
        # What was built is what a machine of its kind will find.
        machine = Machine(target.variant, target.version, target.compute_capabilities[0])
        bundle = Bundle(path)
        for profile in self.profiles:
            find_engines(bundle, machine, _round_up(bundle, profile))
        return folder

    def _wanted(self, bundle: Bundle, target: EngineTarget) -> Iterator[_WantedEngine]:
        manifest = bundle.manifest
        for graph, record in manifest.graphs.items():
            items = {}  # by key: an encoder's is the same for every batch
            for profile in self.profiles:
                sizes = _round_up(bundle, profile)
                inputs = profile_inputs(manifest, graph, sizes)
                key = engine_key(record, target, inputs)
                name = replace(sizes, batch=1) if graph.endswith("_encoder") else sizes
                items[key] = _WantedEngine(graph, name, inputs, key)
            yield from items.values()

    def _kept(
        self, bundle: Bundle, folder: Path, target: EngineTarget, wanted: list[_WantedEngine]
    ) -> Iterator[EngineRecord]:
        """Intact engines that an earlier build made of this very bundle, including those of other profiles."""
        try:
            old = read_index(folder)
        except EngineError:
            return
        asked_for = {item.key for item in wanted}
        for record in old.engines if old.target == target else ():
            if record.key in asked_for and record.builder != self.options:
                continue
            if record.is_current(bundle.manifest, target) and matches(folder / record.file.file, record.file):
                yield record

    def _build(self, bundle: Bundle, folder: Path, item: _WantedEngine, report: BuildReport) -> EngineRecord:
        start = time.perf_counter()
        with report.step(f"{item.graph}: {self.variant.name} engine for {item.profile}"), report.phases() as phases:
            engine, outputs = self._builder.build(bundle.graph_path(item.graph), item.inputs, phases)
        for file, content in ((item.file, engine), (TIMING_CACHE, self._builder.timing_cache)):
            if content:
                with atomic_write(folder / file) as temporary:
                    temporary.write_bytes(content)
        file_record = FileRecord(item.file, len(memoryview(engine)), hashlib.sha256(engine).hexdigest())
        seconds = round(time.perf_counter() - start, 1)
        record = EngineRecord(item.graph, file_record, item.inputs, outputs, item.key, self.options, seconds)
        report.add_engine(record, kept=False)
        return record


def _check_options(options: BuilderOptions) -> None:
    check_integer("optimization level", options.optimization_level, 0, 5)
    if options.workspace_mb is not None:
        check_integer("workspace, in MB,", options.workspace_mb, 1)
    if options.max_aux_streams is not None:
        check_integer("max_aux_streams", options.max_aux_streams, 0)


def _round_up(bundle: Bundle, profile: Profile) -> Profile:
    """A profile with its seconds rounded up to the next length that the denoiser takes, where it takes several."""
    model = bundle.manifest.model
    steps = next(spec.shape[2] for spec in bundle.manifest.graphs["denoiser"].inputs if spec.name == "latents")
    if profile.seconds is None or isinstance(steps, int):
        return replace(profile, seconds=profile.seconds or model.seconds)
    multiple = int(steps.partition("*")[0])  # such as 8*blocks
    blocks = math.ceil(round(profile.seconds * model.latents_per_second / multiple, 6))
    return replace(profile, seconds=round(blocks * multiple / model.latents_per_second, 6))


def _remove_unlisted(folder: Path, index: EngineIndex) -> None:
    """Remove what an earlier build left and the index does not list."""
    listed = {record.file.file for record in index.engines}
    for path in {*folder.glob("*.engine"), *folder.glob(".*.part*")}:
        if path.name not in listed:
            path.unlink()


def _list_folder(bundle: Bundle, name: str) -> None:
    """Add a folder to the bundle's manifest, and drop those that are gone."""
    there = {engines for engines in bundle.manifest.engines if (bundle.path / FOLDER / engines / INDEX).is_file()}
    if (engines := tuple(sorted(there | {name}))) != bundle.manifest.engines:
        write_manifest(bundle.path / MANIFEST, replace(bundle.manifest, engines=engines))

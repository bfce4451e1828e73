"""Which of a bundle's engines suit a machine, and why others do not. Needs neither TensorRT nor a GPU.

An engine file is native code: whoever deserialises one takes its bytes from ``Engines.load``, which has checked their hash.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vta_rt.backends.tensorrt.index import (
    PLATFORM,
    EngineIndex,
    EngineRecord,
    EngineTarget,
    Profile,
    VariantName,
    describe_size,
    engine_precision,
    read_engine,
    read_indices,
)
from vta_rt.backends.tensorrt.variants import capability_numbers
from vta_rt.bundle import Bundle
from vta_rt.errors import EngineError
from vta_rt.manifest import Manifest, Precision


@dataclass(frozen=True)
class Machine:
    """What would run engines: the installed TensorRT and a GPU."""

    variant: VariantName
    version: str  # of the installed variant
    compute_capability: str  # of the GPU, such as ``8.6``
    platform: str = PLATFORM


@dataclass(frozen=True)
class Engines:
    """The engines of one folder and profile that suit a machine, one for every graph of the bundle."""

    folder: Path
    target: EngineTarget
    profile: Profile
    records: dict[str, EngineRecord]  # by graph

    def load(self, graph: str) -> bytes:
        """The engine file of a graph. The bytes returned are those whose hash was checked, whatever happens to the file.

        Raises:
            EngineError: the file cannot be read, is incomplete, or was altered.
        """
        return read_engine(self.folder, self.records[graph].file)


def find_engines(
    bundle: Bundle, machine: Machine, profile: Profile | None = None, precision: Precision | None = None
) -> Engines:
    """The engines of a bundle that suit a machine; hashes are checked when an engine is loaded (``Engines.load``).

    Args:
        profile: None for one clip of the bundle's length.
        precision: of the graphs; None for the bundle's own.

    Raises:
        EngineError: there are none; the message says why not those of the folder that comes nearest.
    """
    manifest, profile = bundle.manifest, profile or Profile()
    profile = replace(profile, seconds=profile.seconds or manifest.model.seconds)
    remedy = f"to build them here: python -m export.build --bundle {bundle.path} --engine {machine.variant}"
    nearest = (-2, f"{bundle.path}: has no engines; {remedy}")
    for folder, index in read_indices(bundle):
        if isinstance(index, EngineError):
            problem = (-1, str(index))
        elif unsuitable := why_unsuitable(
            folder, index, manifest, machine, precision or engine_precision(manifest), profile
        ):
            problem = (unsuitable[0], f"{folder}: {unsuitable[1]}; {remedy}")
        else:
            return Engines(folder, index.target, profile, index.select(manifest, profile))
        nearest = max(nearest, problem, key=lambda problem: problem[0])
    raise EngineError(nearest[1])


def find_profiles(bundle: Bundle, machine: Machine) -> list[Engines]:
    """The engines for one clip of the bundle's length, and those for several such clips in a call where there are any.

    Raises:
        EngineError: there are none for one clip, as from ``find_engines``.
    """
    engines = [find_engines(bundle, machine)]
    indices = [index for _, index in read_indices(bundle) if isinstance(index, EngineIndex)]
    profiles = {profile for index in indices for profile in index.profiles(bundle.manifest.model)}
    for profile in sorted(profiles):
        if profile.batch > 1 and profile.seconds == engines[0].profile.seconds:
            with suppress(EngineError):  # those of another folder, for another machine
                engines.append(find_engines(bundle, machine, profile))
    return engines


def why_unsuitable(
    folder: Path, index: EngineIndex, manifest: Manifest, machine: Machine, precision: Precision, profile: Profile
) -> tuple[int, str] | None:
    """Why the engines of a folder cannot be used: how many checks they pass, and what is wrong; None if they suit."""
    target = index.target
    capabilities, here = target.compute_capabilities, machine.compute_capability
    runs_here = here in capabilities or (
        target.and_later and capability_numbers(here) > max(map(capability_numbers, capabilities))
    )
    # An RTX engine is the same on every system with the same processors.
    systems = [
        platform.partition("-")[2] if machine.variant == "tensorrt-rtx" else platform
        for platform in (target.platform, machine.platform)
    ]
    checks = (
        (target.variant == machine.variant, f"was built by {target.variant}, this machine has {machine.variant}"),
        (
            target.version == machine.version,
            f"was built by {target.variant} {target.version}, this machine has {machine.version}",
        ),
        (systems[0] == systems[1], f"was built on {systems[0]}, this machine is {systems[1]}"),
        (runs_here, f"was built for compute capability {', '.join(capabilities)}, this GPU has {here}"),
        (target.precision == precision, f"is {target.precision}, and {precision} is wanted"),
    )
    for passed, (suits, reason) in enumerate(checks):
        if not suits:
            return passed, reason
    incomplete = _why_incomplete(folder, index, manifest, profile)
    return None if incomplete is None else (len(checks), incomplete)


def _why_incomplete(folder: Path, index: EngineIndex, manifest: Manifest, profile: Profile) -> str | None:
    """Why the engines of a profile cannot all be loaded; hashes are left to loading."""
    try:
        records = index.select(manifest, profile)
    except EngineError as error:
        return str(error)
    if missing := manifest.graphs.keys() - records.keys():
        there = ", ".join(map(str, index.profiles(manifest.model))) or "none"
        return f"has no engine of {', '.join(sorted(missing))} for {profile} (batch x seconds), only for {there}"
    for graph, record in records.items():
        if not record.is_current(manifest, index.target):
            return f"{record.file.file} was built from another {graph} than the bundle's"
        try:
            size = (folder / record.file.file).stat().st_size
        except OSError:
            return f"{record.file.file} is missing"
        if size != record.file.size:
            return f"{record.file.file}: {describe_size(size, record.file)}"
    return None

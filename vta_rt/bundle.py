"""A bundle: the folder that ``export.build`` writes and ``Pipeline`` opens. Knows files, hashes and the manifest's schema.

It does not know what the graphs compute. ``bundle.json`` is plain JSON; the dataclasses below are its schema.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from vta_rt import verified
from vta_rt.config import FrameConfig, ModelConfig
from vta_rt.errors import BundleError, VTAError
from vta_rt.files import replacing
from vta_rt.hub import resolve
from vta_rt.schedule import NoiseSchedule

MANIFEST = "bundle.json"
FORMAT_VERSION = 1
GRAPHS = ("visual_encoder", "denoiser", "denoiser_unguided", "vae_decoder", "vocoder")


Precision = Literal["fp32", "fp16"]


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
    """

    graph: FileRecord
    weights: tuple[FileRecord, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    error: dict[str, float] = field(default_factory=dict)
    key: str = ""

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
    """``bundle.json``."""

    format_version: int
    model: ModelConfig
    frames: FrameConfig
    schedule: NoiseSchedule
    graphs: dict[str, GraphRecord]
    source: Source
    engines: tuple[dict[str, Any], ...] = ()

    @property
    def precision(self) -> str:
        return "+".join(sorted({record.precision for record in self.graphs.values()}))


class Bundle:
    """An opened, checked bundle.

    Args:
        path: the folder, or a model-hub id ``owner/name`` (extra ``hub``).

    Raises:
        BundleError: the folder or its manifest is missing, of a newer version, malformed, or a file is missing or altered.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = resolve(path, BundleError, patterns=[MANIFEST, "*.onnx", "*.data"])
        self.manifest = read_manifest(self.path / MANIFEST)
        for record in self._files():
            self._check_presence(record)
        self._check_hashes(always=False)

    def graph_path(self, name: str) -> Path:
        """Path of the ONNX file of graph ``name``."""
        return self.path / self.manifest.graphs[name].graph.file

    def check(self) -> list[FileRecord]:
        """Hash every file again whatever its time says, and return them all.

        Raises:
            BundleError: a file is not the one the manifest lists.
        """
        self._check_hashes(always=True)
        return self._files()

    def _files(self) -> list[FileRecord]:
        unique = {file.file: file for record in self.manifest.graphs.values() for file in record.files}
        return list(unique.values())

    def _check_presence(self, record: FileRecord) -> None:
        path = self.path / record.file
        if record.file != Path(record.file).name:
            raise BundleError(f"{self.path / MANIFEST}: {record.file!r} is not a file name inside the bundle")
        if not path.is_file():
            raise BundleError(f"{path}: is missing from the bundle; build or copy it again")
        if (size := path.stat().st_size) != record.size:
            raise BundleError(f"{path}: has {size} bytes where the manifest says {record.size}; the file is not whole")

    def _check_hashes(self, *, always: bool) -> None:
        for record in self._files():
            path = self.path / record.file
            if not always and verified.is_unchanged(path, record.sha256):
                continue
            if sha256_of(path) != record.sha256:
                raise BundleError(f"{path}: its sha256 is not the manifest's; the file was altered or damaged")
            verified.remember(path, record.sha256)


def read_manifest(path: Path) -> Manifest:
    """Read and check a ``bundle.json``.

    Raises:
        BundleError: missing, not JSON, another format version, or a field of the wrong type, which is named.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path.parent}: is not a bundle, it has no {path.name}") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        document = msgspec.json.decode(text)
        _check_version(path, document)
        manifest = msgspec.convert(document, Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: is not a valid manifest ({error})") from None
    if missing := [name for name in GRAPHS if name not in manifest.graphs]:
        raise BundleError(f"{path}: lists no graph {', '.join(missing)}")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``bundle.json`` whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(asdict(manifest)), indent=2)
    with replacing(path) as temporary:
        temporary.write_bytes(text + b"\n")


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VTAError(f"{path}: cannot be read ({error.strerror})") from error


def record_file(path: Path) -> FileRecord:
    """The manifest's record of a file that was just written."""
    return FileRecord(path.name, path.stat().st_size, sha256_of(path))


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


def find_bundle() -> Path:
    """The bundle used when none is named: ``$VTA_BUNDLE``, else the newest in ``engines/`` here or in the project.

    Raises:
        BundleError: there is none.
    """
    if named := os.environ.get("VTA_BUNDLE"):
        return Path(named)
    for engines in (Path("engines"), Path(__file__).parents[1] / "engines"):
        if found := sorted(engines.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
            return found[-1].parent
    raise BundleError(
        "no bundle in engines/; build one (python -m export.build --ckpt …) or name one (--bundle, $VTA_BUNDLE)"
    )

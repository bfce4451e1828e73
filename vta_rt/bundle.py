"""A bundle: the folder that ``export.build`` writes and ``Pipeline`` opens, its files and their hashes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from vta_rt.errors import BundleError, OptionError
from vta_rt.files import StrPath, find_path, is_hub_name
from vta_rt.manifest import MANIFEST, REFERENCES, read_manifest
from vta_rt.text import TOKENIZER, PromptTokenizer
from vta_rt.verification import FileRecord, has_hash, matches

PACKAGED, DEMO = (
    Path(__file__).parent / "bundles",
    "demo",
)  # the bundles that come with the package, and the default one


class Bundle:
    """An opened, verified bundle.

    Args:
        path: the folder, or ``hf:owner/name`` for one on the model hub (extra ``hub``).

    Raises:
        BundleError: the folder or its manifest is missing, malformed or of a newer version, or a file is missing or
            altered.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = find_path(path, BundleError, patterns=[MANIFEST, "*.onnx", "*.data", TOKENIZER, REFERENCES])
        self.manifest = read_manifest(self.path / MANIFEST)
        self._verify(anew=False)

    def check(self) -> tuple[FileRecord, ...]:
        """Hash every file again, even those that have not changed since they were hashed, and return their records.

        Raises:
            BundleError: a file is not the one that the manifest lists.
        """
        self._verify(anew=True)
        return self.manifest.files

    def graph_path(self, name: str) -> Path:
        """Path of the ONNX file of graph ``name``.

        Bundles may share files by symbolic links. Where a graph and its data link into one folder, this is the path there,
        because OpenVINO and onnx refuse data that lies outside of the graph's folder.

        Raises:
            BundleError: a file of the graph was altered since the bundle was opened.
        """
        record = self.manifest.graphs[name]
        for file in record.files:
            self._check_unchanged(file)
        path = self.path / record.graph.file
        target = path.resolve()
        is_shared = path.is_symlink() and all(
            (self.path / data.file).resolve() == target.parent / data.file for data in record.weights
        )
        return target if is_shared else path

    def tokenizer(self) -> PromptTokenizer:
        """The tokenizer of prompts.

        Raises:
            OptionError: the model takes no prompts.
            BundleError: the file was altered since the bundle was opened, or is no tokenizer.
            VTAError: the tokenizers library is not installed.
        """
        text, record = self.manifest.model.text, self.manifest.tokenizer
        if text is None or record is None:
            raise OptionError(f"{self.path}: takes no prompts; its model was built without a text encoder")
        self._check_unchanged(record)
        try:
            return PromptTokenizer(self.path / record.file, text)
        except OptionError as error:
            raise BundleError(str(error)) from error

    def _check_unchanged(self, record: FileRecord) -> None:
        if not matches(self.path / record.file, record):
            raise BundleError(f"{self.path / record.file}: has changed since the bundle was opened; open it again")

    def _verify(self, *, anew: bool) -> None:
        for record in self.manifest.files:
            self._check_presence(record)
        for record in self.manifest.files:
            path = self.path / record.file
            if not has_hash(path, record.sha256, anew=anew):
                raise BundleError(f"{path}: its sha256 is not the manifest's; the file was altered or damaged")

    def _check_presence(self, record: FileRecord) -> None:
        path = self.path / record.file
        if not path.is_file():
            raise BundleError(f"{path}: is missing from the bundle; build or copy it again")
        if (size := path.stat().st_size) != record.size:
            raise BundleError(
                f"{path}: has {size} bytes instead of the manifest's {record.size}; build or copy it again"
            )


def find_bundle(name: StrPath | None = None) -> StrPath:
    """Where a bundle is: a path, a name of ``list_bundles``, or ``hf:owner/name`` as it stands.

    Args:
        name: None for ``$VTA_BUNDLE``, or else the small model that comes with the package.

    Raises:
        BundleError: nothing of that name is here, or several bundles are.
    """
    if name is None and not (name := os.environ.get("VTA_BUNDLE")):
        return PACKAGED / DEMO
    path = Path(os.path.expanduser(name))
    if is_hub_name(name) or os.path.exists(path):
        return name
    if path.name != str(name):  # a path, whose error comes when it is opened
        beside = (
            [manifest.parent.name for manifest in path.parent.glob(f"*/{MANIFEST}")] if path.parent.is_dir() else []
        )
        if near := _name_near(path.name, beside):
            raise BundleError(f"{name}: no such file or folder; {near} in {path.parent}")
        return name
    bundles = list_bundles()
    found = bundles.get(str(name), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise BundleError(f"{name}: is the name of several bundles, {', '.join(map(str, found))}; give the path of one")
    near = _name_near(str(name), bundles) or f"here are {', '.join(bundles)}"
    raise BundleError(f"{name}: no such folder, and no bundle of that name; {near}")


def _name_near(name: str, names: Iterable[str]) -> str:
    """Those names that ``name`` may have been meant for, for a message; empty where there are none."""
    near = get_close_matches(name, list(names))
    return f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else ""


def list_bundles() -> dict[str, list[Path]]:
    """The bundles in ``engines/`` of this folder and of the checkout, and the one in the package: by name, each once."""
    found: dict[str, list[Path]] = {}
    for folder in (Path("engines"), Path(__file__).parents[1] / "engines", PACKAGED):
        for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
            others = found.setdefault(manifest.parent.name, [])
            if not any(os.path.samefile(manifest, other / MANIFEST) for other in others):
                others.append(manifest.parent)
    return found

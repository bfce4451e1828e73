"""Clips prepared ahead of training: a folder of one safetensors file each, and where they lie in it.

    DIR/prepared.json        what all of them were made with (``Recipe``), so that a folder never mixes two
    DIR/train.jsonl ...      {"name", "file", "description", "frames", ...} a line: one index per list, named after it
    DIR/clips/KEY.safetensors
        frames       [T, S, S, 3] uint8    pictures, or
        embeddings   [N, E] float32        what the frozen tower makes of them
        wave         [samples] int16       sound, or
        moments      [2C, T', F] float32   mean and log-variance of the autoencoder's posterior for its log-mel
    DIR/skipped.json         by list: the name of each clip that could not be read, and why

Embeddings and moments stay float32, so that training on a prepared clip computes what it would on the clip itself (but where
embeddings tell known events instead); beside frames they are small. Knows these files; making them is ``train.data.prepare``'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

from train.data.audio import to_float
from train.data.sample import Sample, SampleError, Window
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write, raise_output_errors

NOTE, SKIPPED, CLIPS = "prepared.json", "skipped.json", "clips"
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """What all clips of a folder were made with.

    window: how they were cut. tower: hash of the network that embedded the pictures, "" where they are kept as they
    are. vae: likewise for the sound; mel: the analysis before it, empty without. events: hash of the file whose events the
    embeddings tell instead of what the network takes for them, "" without.
    """

    window: Window
    tower: str = ""
    vae: str = ""
    mel: dict[str, float] | None = None
    version: int = VERSION
    events: str = ""

    @property
    def tensors(self) -> set[str]:
        """Names in a clip's file."""
        return {"embeddings" if self.tower else "frames", "moments" if self.vae else "wave"}


@dataclass(frozen=True)
class Row:
    """A line of an index. file: from the folder. frames: pictures, or embeddings, in it.

    video_path, feature_file, audio_file: what the clip was made of.
    """

    name: str
    file: str
    description: str
    frames: int
    video_path: str | None = None
    feature_file: str | None = None
    audio_file: str | None = None


class PreparedSource:
    """Clips of one index.

    Args:
        path: the index, or the folder where it has a single one.

    Attributes:
        recipe: what the clips were made with.

    Raises:
        OptionError: no such folder or index, a damaged one, or several where one must be named.
    """

    problems: Mapping[str, str] = {}  # what could not be read was left out when the folder was made

    def __init__(self, path: str | Path) -> None:
        index = _index(Path(path))
        self.folder = index.parent
        self.recipe = read_recipe(self.folder)
        self.rows = read_index(index)

    @property
    def window(self) -> Window:
        return self.recipe.window

    @property
    def frame_count(self) -> int:
        """Pictures of a clip that fills the window."""
        return self.window.frames

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.rows[index].name

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Read a clip; nothing about it is random.

        Raises:
            SampleError: its file is missing, damaged, or holds something else.
        """
        row = self.rows[index]
        return read_clip(self.folder / row.file, self.recipe, row.name, row.description)

    def frames(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """``[count, S, S, 3]`` uint8 from frame ``start`` on, reading no others; raises as ``load``."""
        stop = None if count is None else start + count
        return self._part(self.rows[index], "frames", slice(start, stop))

    def wave(self, index: int) -> np.ndarray:
        """``[samples]`` float32 in [-1, 1]; raises as ``load``."""
        return to_float(self._part(self.rows[index], "wave", slice(None)))

    def check_networks(self, *, tower: str | None = None, vae: str | None = None) -> None:
        """See that clips were made with the networks of these ``fingerprint``s; None is not compared.

        Raises:
            OptionError: one differs.
        """
        for what, made_with, now in (("tower", self.recipe.tower, tower), ("autoencoder", self.recipe.vae, vae)):
            if made_with and now is not None and made_with != now:
                raise OptionError(
                    f"{self.folder}: was prepared with another {what} (hash {made_with[:12]}, not {now[:12]}); "
                    "prepare the clips again with the present one, into another folder"
                )

    def _part(self, row: Row, name: str, part: slice) -> np.ndarray:
        path = self.folder / row.file
        try:
            with safe_open(path, "numpy") as file:
                if name not in file.keys():  # noqa: SIM118 - no mapping
                    raise SampleError(f"{path}: holds no {name}, only {', '.join(sorted(file.keys()))}")
                return file.get_slice(name)[part]
        except (OSError, SafetensorError) as error:
            raise SampleError(_unreadable(path, error)) from error


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a folder of prepared clips, or an index in one."""
    path = Path(path)
    return ((path if path.is_dir() else path.parent) / NOTE).is_file()


def read_recipe(folder: Path) -> Recipe:
    """What a folder's clips were made with.

    Raises:
        OptionError: it holds none, or of another version.
    """
    note = folder / NOTE
    try:
        values = json.loads(note.read_text())
        if values.get("version") != VERSION:
            raise OptionError(
                f"{note}: is of version {values.get('version')}, {VERSION} is read; prepare the clips again"
            )
        if "fit" in values:  # as notes once had it
            values["window"].setdefault("fit", values["fit"])
        return msgspec.convert(values, Recipe)
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, OptionError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{note}: cannot be read ({reason}); a folder written by train.prepare is needed") from error


def read_index(path: Path) -> list[Row]:
    """The lines of an index.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        return [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{path}: cannot be read ({reason}); prepare the clips again") from error


def claim(folder: Path, recipe: Recipe) -> None:
    """Make a folder one of this recipe; sweep what a killed run left half-written.

    Raises:
        OptionError: it holds clips of another recipe.
        OutputError: it cannot be written.
    """
    with raise_output_errors(folder):
        (folder / CLIPS).mkdir(parents=True, exist_ok=True)
        for part in (folder / CLIPS).glob(".*.part.*"):
            part.unlink(missing_ok=True)
    if not (folder / NOTE).exists():
        write_json(folder / NOTE, asdict(recipe))
    elif (found := read_recipe(folder)) != recipe:
        old, new = asdict(found), asdict(recipe)
        differs = ", ".join(f"{key} {_short(old[key])} not {_short(new[key])}" for key in new if old[key] != new[key])
        raise OptionError(f"{folder}: holds clips that were prepared otherwise ({differs}); name another folder")


def write_clip(folder: Path, file: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write one clip's file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    # Strides are not asked when bytes are taken: what a network gives may lie in memory otherwise than it is indexed.
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_write(folder / file) as part:
        part.write_bytes(safetensors.numpy.save(contiguous))


def read_clip(path: Path, recipe: Recipe, name: str, text: str) -> Sample:
    """Read one clip's file; raises as ``PreparedSource.load``."""
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, SafetensorError) as error:
        raise SampleError(_unreadable(path, error)) from error
    if set(arrays) != recipe.tensors:
        raise SampleError(f"{path}: holds {', '.join(sorted(arrays))}, not {', '.join(sorted(recipe.tensors))}")
    if "wave" in arrays:
        arrays["wave"] = to_float(arrays["wave"])
    return Sample(name=name, text=text, **{key: torch.from_numpy(array) for key, array in arrays.items()})


def frames_in(folder: Path, file: str, recipe: Recipe) -> int | None:
    """Number of pictures or embeddings in a clip's file; None where it is missing, cut short, or holds something else."""
    try:
        with safe_open(folder / file, "numpy") as content:
            if set(content.keys()) != recipe.tensors:
                return None
            return content.get_slice("embeddings" if recipe.tower else "frames").get_shape()[0]
    except (OSError, SafetensorError):
        return None


def write_index(path: Path, rows: list[Row]) -> None:
    """Write an index, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _index(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.jsonl"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none; train.prepare was stopped before its end or never ran"
        raise OptionError(f"{path}: name one of the lists in this folder: {names}")
    return found[0]


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file"
    return f"{path}: is damaged or truncated ({error})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else f"{text[:100]}..."

"""Reads and writes folders of prepared clips: one safetensors file a clip, and indexes of them.

    DIR/prepared.json        what all clips were made with (``PreparedRecipe``), so that a folder never mixes two
    DIR/train.jsonl ...      {"name", "file", "description", "frames", ...} a line: one index per list, named after it
    DIR/clips/KEY.safetensors
        frames       [T, S, S, 3] uint8    frames, or
        embeddings   [N, E] float32        what the frozen tower makes of them
        wave         [samples] int16       samples, or
        moments      [2C, T', F] float32   mean and log-variance of the autoencoder's posterior for their log-mel
    DIR/skipped.json         by list: the name of each clip that could not be read, and why

Embeddings and moments stay float32, so that training on a prepared clip computes what it would on the clip itself (except
where embeddings hold known events instead); beside frames they are small. ``train.data.prepare`` makes these folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

from train.data.audio import to_float
from train.data.sample import Sample, SampleError, Window
from vta_rt.documents import read_document, read_lines
from vta_rt.errors import OptionError
from vta_rt.files import atomic_write, raise_output_errors

RECIPE_FILE, SKIPPED_FILE, CLIPS_FOLDER = "prepared.json", "skipped.json", "clips"
PREPARED_VERSION = 1


@dataclass(frozen=True)
class PreparedRecipe:
    """What all clips of a folder were made with."""

    window: Window  # how they were cut
    tower: str = ""  # hash of the network that embedded the frames, "" where the frames themselves are kept
    vae: str = ""  # hash of the autoencoder, "" where the samples themselves are kept
    mel: dict[str, float] | None = None  # the analysis before the autoencoder, None without one
    version: int = PREPARED_VERSION
    events: str = ""  # hash of the file of known events that embeddings hold instead of the tower's verdict

    @property
    def tensors(self) -> set[str]:
        """Names in a clip's file."""
        return {"embeddings" if self.tower else "frames", "moments" if self.vae else "wave"}


@dataclass(frozen=True)
class IndexRow:
    """One clip in an index."""

    name: str
    file: str  # relative to the folder
    description: str
    frames: int  # number of frames or embeddings in the file
    video_path: str | None = None  # the clip was made from this, and from the next two
    feature_file: str | None = None
    audio_file: str | None = None


class PreparedSource:
    """The clips of one index.

    Args:
        path: the index, or its folder if that has just one.

    Attributes:
        recipe: what the clips were made with.
        rows: the lines of the index.

    Raises:
        OptionError: no such folder or index, a damaged one, or a folder with several indexes.
    """

    problems: Mapping[str, str] = {}  # unreadable clips were left out when the folder was made

    def __init__(self, path: str | Path) -> None:
        index = _find_index(Path(path))
        self.folder = index.parent
        self.recipe = read_recipe(self.folder)
        self.rows = list(read_lines(index, IndexRow, error=OptionError, hint="prepare the clips again"))

    @property
    def window(self) -> Window:
        return self.recipe.window

    @property
    def frame_count(self) -> int:
        """Frames of a clip that fills the window."""
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
        """``[count, S, S, 3]`` uint8 from frame ``start`` on, without reading the others; raises as ``load``."""
        stop = None if count is None else start + count
        return self._read_slice(self.rows[index], "frames", slice(start, stop))

    def wave(self, index: int) -> np.ndarray:
        """``[samples]`` float32 in [-1, 1]; raises as ``load``."""
        return to_float(self._read_slice(self.rows[index], "wave", slice(None)))

    def check_networks(self, *, tower: str | None = None, vae: str | None = None) -> None:
        """Check that the clips were made with the networks of these ``fingerprint``s; None is not compared.

        Raises:
            OptionError: one differs.
        """
        for what, made_with, now in (("tower", self.recipe.tower, tower), ("autoencoder", self.recipe.vae, vae)):
            if made_with and now is not None and made_with != now:
                raise OptionError(
                    f"{self.folder}: was prepared with another {what} (hash {made_with[:12]}, not {now[:12]}); "
                    "prepare the clips again with the present one, into another folder"
                )

    def _read_slice(self, row: IndexRow, name: str, part: slice) -> np.ndarray:
        path = self.folder / row.file
        try:
            with safe_open(path, "numpy") as file:
                if name not in file.keys():  # noqa: SIM118 - not a mapping
                    raise SampleError(f"{path}: holds no {name}, only {', '.join(sorted(file.keys()))}")
                return file.get_slice(name)[part]
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, error) from error


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a folder of prepared clips, or an index in one."""
    path = Path(path)
    return ((path if path.is_dir() else path.parent) / RECIPE_FILE).is_file()


def read_recipe(folder: Path) -> PreparedRecipe:
    """What a folder's clips were made with.

    Raises:
        OptionError: the folder has no recipe, a damaged one or one of another version.
    """
    path, hint = folder / RECIPE_FILE, "a folder written by train.prepare is needed"
    values = read_document(path, error=OptionError, hint=hint)
    if values.get("version") != PREPARED_VERSION:
        version = values.get("version")
        raise OptionError(f"{path}: is of version {version}, {PREPARED_VERSION} is read; prepare the clips again")
    recipe = read_document(path, PreparedRecipe, error=OptionError, hint=hint)
    if "fit" in values and "fit" not in values["window"]:  # where it once was
        recipe = replace(recipe, window=replace(recipe.window, fit=values["fit"]))
    return recipe


def claim_folder(folder: Path, recipe: PreparedRecipe) -> None:
    """Create a folder for clips of this recipe, or take up one; delete what a killed run left half-written.

    Raises:
        OptionError: it holds clips of another recipe.
        OutputError: it cannot be written.
    """
    with raise_output_errors(folder):
        (folder / CLIPS_FOLDER).mkdir(parents=True, exist_ok=True)
        for part in (folder / CLIPS_FOLDER).glob(".*.part.*"):
            part.unlink(missing_ok=True)
    if not (folder / RECIPE_FILE).exists():
        write_json(folder / RECIPE_FILE, asdict(recipe))
    elif (found := read_recipe(folder)) != recipe:
        old, new = asdict(found), asdict(recipe)
        differs = ", ".join(f"{key} {_short(old[key])} not {_short(new[key])}" for key in new if old[key] != new[key])
        raise OptionError(f"{folder}: holds clips that were prepared otherwise ({differs}); name another folder")


def write_clip(folder: Path, file: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write one clip's file, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    # safetensors writes the bytes as they lie in memory, and the strides of a network's output may be any.
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_write(folder / file) as part:
        part.write_bytes(safetensors.numpy.save(contiguous))


def read_clip(path: Path, recipe: PreparedRecipe, name: str, text: str) -> Sample:
    """Read one clip's file; raises as ``PreparedSource.load``."""
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if set(arrays) != recipe.tensors:
        raise SampleError(f"{path}: holds {', '.join(sorted(arrays))}, not {', '.join(sorted(recipe.tensors))}")
    if "wave" in arrays:
        arrays["wave"] = to_float(arrays["wave"])
    return Sample(name=name, text=text, **{key: torch.from_numpy(array) for key, array in arrays.items()})


def count_frames(path: Path, recipe: PreparedRecipe) -> int | None:
    """Number of frames or embeddings in a clip's file; None if it is missing, truncated, or holds something else."""
    try:
        with safe_open(path, "numpy") as content:
            if set(content.keys()) != recipe.tensors:
                return None
            return content.get_slice("embeddings" if recipe.tower else "frames").get_shape()[0]
    except (OSError, SafetensorError):
        return None


def write_index(path: Path, rows: list[IndexRow]) -> None:
    """Write an index, atomically."""
    with atomic_write(path) as part:
        part.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file, atomically."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _find_index(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise OptionError(f"{path}: no such file or folder; a list or folder written by train.prepare is needed")
    found = sorted(path.glob("*.jsonl"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none; train.prepare was stopped before its end or never ran"
        raise OptionError(f"{path}: name one of the lists in this folder: {names}")
    return found[0]


def _unreadable(path: Path, error: Exception) -> SampleError:
    reason = "no such file" if isinstance(error, FileNotFoundError) else f"is damaged or truncated ({error})"
    return SampleError(f"{path}: {reason}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else f"{text[:100]}..."

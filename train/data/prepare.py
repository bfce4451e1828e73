"""Prepares clips ahead of training: read in several processes, put through the networks, written one file each.

Files that are there and whole are kept, so a run that was stopped goes on where it was. Knows lists, networks and the
folder of ``train.data.prepared``; does not know where weights come from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import Dataset

from train.data.ahead import read_ahead
from train.data.audio import to_int16
from train.data.events import Truth
from train.data.lists import Entry, Listing
from train.data.networks import fingerprint
from train.data.prepared import (
    CLIPS,
    SKIPPED,
    Recipe,
    Row,
    claim,
    frames_in,
    read_clip,
    read_recipe,
    write_clip,
    write_index,
    write_json,
)
from train.data.raw import RawSource
from train.data.sample import Sample, SampleError, Window
from train.model import encode_audio
from train.models.config import SystemConfig
from train.models.encoder import FrameEncoder
from vta_rt.errors import OptionError, check_integer

Item = TypeVar("Item")


@dataclass(frozen=True)
class Networks:
    """What clips are put through. Without an encoder pictures are kept, without an autoencoder sound.

    Modules are frozen and on ``device``. truth: what happens, instead of what the encoder takes for it; ``prepare`` looks it
    up, clip by clip.

    Raises:
        OptionError: the autoencoder is not of the form that ``config`` describes; truth without an encoder.
    """

    config: SystemConfig
    encoder: FrameEncoder | None = None
    vae: AutoencoderKL | None = None
    device: torch.device | str = "cpu"
    truth: Truth | None = None

    def __post_init__(self) -> None:
        if self.truth is not None and self.encoder is None:
            raise OptionError("events correct what a frame encoder says; none is given")
        if self.vae is not None:
            found = (len(self.vae.config.block_out_channels), self.vae.config.latent_channels)
            wanted = (len(self.config.vae.block_out_channels), self.config.vae.latent_channels)
            if found != wanted:
                raise OptionError(
                    "the autoencoder has {} levels and {} latent channels, the configuration says {} and {}".format(
                        *found, *wanted
                    )
                )

    def recipe(self, seconds: float) -> Recipe:
        """What a folder notes about clips made with these."""
        return Recipe(
            Window.of(self.config, seconds),
            "" if self.encoder is None else fingerprint(self.encoder.tower),
            "" if self.vae is None else fingerprint(self.vae),
            None if self.vae is None else asdict(self.config.mel),
            events="" if self.truth is None else self.truth.digest,
        )

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample]) -> list[dict[str, np.ndarray]]:
        """The tensors of each clip's file, from frames and waves."""
        if not samples:
            return []
        pictures = [self._pictures(sample) for sample in samples]
        return [visual | sound for visual, sound in zip(pictures, self._sounds(samples), strict=True)]

    def _pictures(self, sample: Sample) -> dict[str, np.ndarray]:
        assert sample.frames is not None
        if self.encoder is None:
            return {"frames": sample.frames.numpy()}
        return {"embeddings": self.encoder.embed(sample.frames.to(self.device)).float().cpu().numpy()}

    def _sounds(self, samples: Sequence[Sample]) -> list[dict[str, np.ndarray]]:
        waves = torch.stack([sample.wave for sample in samples if sample.wave is not None])  # [B, samples]
        if self.vae is None:
            return [{"wave": wave} for wave in to_int16(waves.numpy())]
        moments = encode_audio(self.vae, waves.to(self.device), self.config.mel)  # [B, 2C, T', F]
        return [{"moments": clip} for clip in moments.float().cpu().numpy()]


@dataclass(frozen=True)
class Outcome:
    """What became of one clip. reason: why it was skipped, "" where it was not. is_new: made now, not found there."""

    name: str
    reason: str = ""
    is_new: bool = False


def prepare(
    listings: Sequence[Listing],
    out: Path,
    networks: Networks,
    seconds: float,
    *,
    batch: int = 8,
    workers: int = 0,
    reuse: Path | None = None,
) -> Iterator[Outcome]:
    """Prepare all clips of some lists into the folder ``out``; gives what became of each, and writes the indexes last.

    Args:
        seconds: length of the window that clips are cut to.
        batch: sounds that go through the autoencoder at once.
        workers: processes that read clips; 0 reads in this one.
        reuse: folder of pictures and sound (samples of 16 bits) prepared before; what it has is read from there.

    Raises:
        OptionError: ``out`` holds clips that were made otherwise, ``reuse`` something else or clips of another window; two
            lists of one name; options outside what is allowed; clips whose events are not known.
        OutputError: something cannot be written.
    """
    for name, value, least in (("batch", batch, 1), ("workers", workers, 0)):
        check_integer(name, value, least)
    _check_names(listings)
    recipe = networks.recipe(seconds)
    kept = reuse and Kept(reuse, recipe)
    if networks.truth is not None:
        networks.truth.check(listings)
    claim(out, recipe)
    clips = _by_file(listings)
    frames: dict[str, int] = {}  # pictures or embeddings in each file that is done
    reasons: dict[str, str] = {}  # why there is no file
    for file, entries in clips.items():
        if (count := frames_in(out, file, recipe)) is not None:
            frames[file] = count
            yield from (Outcome(entry.name) for entry in entries)
    todo = [file for file in clips if file not in frames]
    source = _Clips(RawSource([clips[file][0] for file in todo], recipe.window), todo, kept or None)
    for group in _batches(zip(todo, read_ahead(source, range(len(source)), workers=workers), strict=True), batch):
        samples = {file: sample for file, sample in group if isinstance(sample, Sample)}
        for file, tensors in zip(samples, networks(list(samples.values())), strict=True):
            if networks.truth is not None:
                tensors["embeddings"] = networks.truth.correct(tensors["embeddings"], clips[file][0].video)
            write_clip(out, file, tensors)
            frames[file] = len(tensors.get("frames", tensors.get("embeddings", ())))
        reasons |= {file: str(error) for file, error in group if isinstance(error, SampleError)}
        for file, _ in group:
            yield from (Outcome(entry.name, reasons.get(file, ""), file in frames) for entry in clips[file])
    for listing in listings:
        rows = [_row(entry, file, frames[file]) for entry in listing.entries if (file := _file(entry)) in frames]
        write_index(out / f"{listing.path.stem}.jsonl", rows)
    _note_skipped(out, listings, reasons)


class Kept:
    """Clips whose pictures and sound lie prepared in a folder. A file's name tells what it was made of, so none is stale.

    Raises:
        OptionError: the folder holds something else, or clips that were cut otherwise than ``recipe`` says.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, read_recipe(folder)
        if self.recipe != Recipe(recipe.window):
            raise OptionError(f"{folder}: its clips cannot be reused; pictures and sound of the same window are needed")

    def load(self, file: str, entry: Entry) -> Sample | None:
        """None where there is no such file, or a damaged one."""
        with suppress(SampleError):
            return read_clip(self.folder / file, self.recipe, entry.name, entry.text)
        return None


class _Clips(Dataset[Sample | SampleError]):
    """A source whose errors are values, so that they pass from one process to another. files: of each clip."""

    def __init__(self, source: RawSource, files: Sequence[str], kept: Kept | None) -> None:
        self.source, self.files, self.kept = source, files, kept

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample | SampleError:
        if self.kept and (sample := self.kept.load(self.files[index], self.source.entries[index])):
            return sample
        try:
            return self.source.load(index)
        except SampleError as error:
            return error


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while group := list(itertools.islice(rest, size)):
        yield group


def _by_file(listings: Sequence[Listing]) -> dict[str, list[Entry]]:
    """Entries by the file they are kept in; what is listed twice is kept once."""
    clips: dict[str, list[Entry]] = {}
    for listing in listings:
        for entry in listing.entries:
            clips.setdefault(_file(entry), []).append(entry)
    return clips


def _file(entry: Entry) -> str:
    """A name that follows from what a clip is made of: where its files lie, how long they are and when they were written."""
    pictures, sound = entry.features or entry.video, entry.audio or entry.video
    made_of = [_state(path) for path in (pictures, sound)]
    return f"{CLIPS}/{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]}.safetensors"


def _state(path: Path | None) -> list[str | int]:
    if path is None:
        return []
    try:
        found = path.stat()
        return [str(path.resolve()), found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):
        return [str(path)]


def _row(entry: Entry, file: str, frames: int) -> Row:
    video, features, audio = (
        str(path.resolve()) if path else None for path in (entry.video, entry.features, entry.audio)
    )
    return Row(entry.name, file, entry.text, frames, video, features, audio)


def _check_names(listings: Sequence[Listing]) -> None:
    """Each list has an index of its own name."""
    stems = [listing.path.stem for listing in listings]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise OptionError(f"two lists are called {twice}; rename one, or prepare them into different folders")


def _note_skipped(out: Path, listings: Sequence[Listing], reasons: Mapping[str, str]) -> None:
    """Renew what the folder's note says of these lists."""
    path = out / SKIPPED
    noted: dict[str, dict[str, str]] = {}
    with suppress(OSError, ValueError):
        noted = json.loads(path.read_text(encoding="utf-8"))
    for listing in listings:
        files = ((entry.name, _file(entry)) for entry in listing.entries)
        unreadable = {name: reasons[file] for name, file in files if file in reasons}
        noted[listing.path.stem] = dict(listing.problems) | unreadable
    write_json(path, noted)

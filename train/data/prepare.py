"""Prepares clips ahead of training: read in several processes, put through the networks, written to one file each.

Complete files that are already there are kept, so a run that was stopped continues where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import Dataset

from train.data.audio import to_int16
from train.data.events import KnownEvents
from train.data.lists import Entry, Listing
from train.data.loader import read_ahead
from train.data.prepared import (
    CLIPS_FOLDER,
    SKIPPED_FILE,
    IndexRow,
    PreparedRecipe,
    claim_folder,
    count_frames,
    read_clip,
    read_recipe,
    write_clip,
    write_index,
    write_json,
)
from train.data.raw import RawSource
from train.data.sample import Sample, SampleError, Window
from train.models.config import SystemConfig
from train.models.encoder import FrameEncoder
from train.models.vae import encode_audio
from train.models.weights import fingerprint
from vta_rt.documents import read_document
from vta_rt.errors import OptionError, check_integer


@dataclass(frozen=True)
class Networks:
    """The frozen networks that clips are put through.

    Raises:
        OptionError: the autoencoder is not of the form that ``config`` describes; events without an encoder.
    """

    config: SystemConfig
    encoder: FrameEncoder | None = None  # on ``device``; without one, the frames themselves are kept
    vae: AutoencoderKL | None = None  # on ``device``; without one, the samples themselves are kept
    device: torch.device | str = "cpu"
    events: KnownEvents | None = None  # replace the encoder's verdict, clip by clip

    def __post_init__(self) -> None:
        if self.events is not None and self.encoder is None:
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

    def recipe(self, seconds: float) -> PreparedRecipe:
        """The recipe of clips made with these networks."""
        return PreparedRecipe(
            Window.of(self.config, seconds),
            "" if self.encoder is None else fingerprint(self.encoder.tower),
            "" if self.vae is None else fingerprint(self.vae),
            None if self.vae is None else asdict(self.config.mel),
            events="" if self.events is None else self.events.digest,
        )

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], videos: Sequence[Path | None]) -> list[dict[str, np.ndarray]]:
        """The tensors of each clip's file, from its frames and samples; ``videos`` are needed for known events."""
        if not samples:
            return []
        visual = [self._encode_frames(sample, video) for sample, video in zip(samples, videos, strict=True)]
        return [frames | audio for frames, audio in zip(visual, self._encode_waves(samples), strict=True)]

    def _encode_frames(self, sample: Sample, video: Path | None) -> dict[str, np.ndarray]:
        assert sample.frames is not None
        if self.encoder is None:
            return {"frames": sample.frames.numpy()}
        embeddings = self.encoder.embed(sample.frames.to(self.device)).float().cpu().numpy()
        return {"embeddings": embeddings if self.events is None else self.events.correct(embeddings, video)}

    def _encode_waves(self, samples: Sequence[Sample]) -> list[dict[str, np.ndarray]]:
        waves = torch.stack([sample.wave for sample in samples if sample.wave is not None])  # [B, samples]
        if self.vae is None:
            return [{"wave": wave} for wave in to_int16(waves.numpy())]
        moments = encode_audio(self.vae, waves.to(self.device), self.config.mel)  # [B, 2C, T', F]
        return [{"moments": clip} for clip in moments.float().cpu().numpy()]


@dataclass(frozen=True)
class Outcome:
    """What became of one clip."""

    name: str
    reason: str = ""  # why it was skipped, "" if it was not
    is_new: bool = False  # prepared now, not found in the folder


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
    """Prepare all clips of some lists into the folder ``out``; yields what became of each, and writes the indexes last.

    Args:
        seconds: length of the window that clips are cut to.
        batch: clips that go through the autoencoder at once.
        workers: processes that read clips; 0 reads in this one.
        reuse: folder of frames and samples prepared before; clips that it has are read from there.

    Raises:
        OptionError: ``out`` holds clips of another recipe, ``reuse`` no frames and samples of this window; two lists of one
            name; options outside their range; clips whose events are not known.
        OutputError: something cannot be written.
    """
    for name, value, least in (("batch", batch, 1), ("workers", workers, 0)):
        check_integer(name, value, least)
    _check_names(listings)
    recipe = networks.recipe(seconds)
    if reuse is not None and read_recipe(reuse) != PreparedRecipe(recipe.window):
        raise OptionError(f"{reuse}: its clips cannot be reused; frames and samples of the same window are needed")
    if networks.events is not None:
        networks.events.check(listings)
    claim_folder(out, recipe)
    clips = _group_by_file(listings)
    counts: dict[str, int] = {}  # number of frames or embeddings in each file that is complete
    reasons: dict[str, str] = {}  # why there is no file
    for file, entries in clips.items():
        if (count := count_frames(out / file, recipe)) is not None:
            counts[file] = count
            yield from (Outcome(entry.name) for entry in entries)
    todo = {file: entries[0] for file, entries in clips.items() if file not in counts}
    dataset = _Clips(todo, recipe.window, reuse)
    pending = zip(todo, read_ahead(dataset, range(len(todo)), workers=workers), strict=True)
    while group := list(itertools.islice(pending, batch)):
        samples = {file: sample for file, sample in group if isinstance(sample, Sample)}
        tensors = networks(list(samples.values()), [todo[file].video for file in samples])
        for file, arrays in zip(samples, tensors, strict=True):
            write_clip(out, file, arrays)
            counts[file] = len(arrays.get("frames", arrays.get("embeddings", ())))
        reasons |= {file: str(error) for file, error in group if isinstance(error, SampleError)}
        for file, _ in group:
            yield from (Outcome(entry.name, reasons.get(file, ""), file in counts) for entry in clips[file])
    for listing in listings:
        rows = [
            _index_row(entry, file, counts[file]) for entry in listing.entries if (file := _file_of(entry)) in counts
        ]
        write_index(out / f"{listing.path.stem}.jsonl", rows)
    _write_skipped(out / SKIPPED_FILE, listings, reasons)


class _Clips(Dataset[Sample | SampleError]):
    """The clips to prepare. Errors are returned, not raised, so that they pass from one process to another.

    A file's name follows from what the clip is made of, so a file of the folder ``reuse`` is never outdated.
    """

    def __init__(self, todo: Mapping[str, Entry], window: Window, reuse: Path | None) -> None:
        self.source, self.files, self.reuse = RawSource(list(todo.values()), window), list(todo), reuse

    def __getitem__(self, index: int) -> Sample | SampleError:
        entry = self.source.entries[index]
        if self.reuse is not None:
            with suppress(SampleError):  # it has no such file, or a damaged one
                recipe = PreparedRecipe(self.source.window)
                return read_clip(self.reuse / self.files[index], recipe, entry.name, entry.text)
        try:
            return self.source.load(index)
        except SampleError as error:
            return error


def _group_by_file(listings: Sequence[Listing]) -> dict[str, list[Entry]]:
    """Entries by the file they are kept in; a clip that is listed twice is kept once."""
    clips: dict[str, list[Entry]] = {}
    for listing in listings:
        for entry in listing.entries:
            clips.setdefault(_file_of(entry), []).append(entry)
    return clips


def _file_of(entry: Entry) -> str:
    """A file name that follows from the clip's source files: their paths, lengths and modification times."""
    sources = [_state(path) for path in (entry.features or entry.video, entry.audio or entry.video)]
    return f"{CLIPS_FOLDER}/{hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:24]}.safetensors"


def _state(path: Path | None) -> list[str | int]:
    if path is None:
        return []
    try:
        found = path.stat()
        return [str(path.resolve()), found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):
        return [str(path)]


def _index_row(entry: Entry, file: str, frames: int) -> IndexRow:
    video, features, audio = (
        str(path.resolve()) if path else None for path in (entry.video, entry.features, entry.audio)
    )
    return IndexRow(entry.name, file, entry.text, frames, video, features, audio)


def _check_names(listings: Sequence[Listing]) -> None:
    """Check that each list gets an index of its own name."""
    stems = [listing.path.stem for listing in listings]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise OptionError(f"two lists are called {twice}; rename one, or prepare them into different folders")


def _write_skipped(path: Path, listings: Sequence[Listing], reasons: Mapping[str, str]) -> None:
    """Update what the folder's note of skipped clips says about these lists."""
    noted: dict[str, dict[str, str]] = {}
    with suppress(OptionError):
        noted = read_document(path, error=OptionError)
    for listing in listings:
        files = ((entry.name, _file_of(entry)) for entry in listing.entries)
        unreadable = {name: reasons[file] for name, file in files if file in reasons}
        noted[listing.path.stem] = dict(listing.problems) | unreadable
    write_json(path, noted)

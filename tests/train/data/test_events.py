"""Prepared clips tell what truly happens, where it is known, and what the tower has to say beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from train.data.events import MAX_NOTE_ERROR, NOTE_ERROR_STD, read_known_events
from train.data.lists import Listing, read_list
from train.data.prepare import Networks, prepare
from train.data.prepared import PreparedSource
from train.models.config import MotionConfig, SystemConfig
from train.models.encoder import build_encoder
from train.models.motion import EVENT_SCALE, NOTES, event_width
from vta_rt.errors import OptionError

SECONDS = 1.0


@pytest.fixture(scope="module")
def materials(world: Path) -> list[str]:
    records = [json.loads(line) for line in (world / "events.jsonl").read_text().splitlines()]
    return sorted({event["material"] for record in records for event in record["events"]})


@pytest.fixture(scope="module")
def system(materials: list[str]) -> SystemConfig:
    encoder = MotionConfig((4, 8, 8), (1,), len(materials), image_size=16, projection=128, tokens_dim=8)
    return SystemConfig(encoder=encoder, frame_rate=25.0)


@pytest.fixture(scope="module")
def networks(system: SystemConfig) -> Networks:
    torch.manual_seed(0)
    return Networks(system, build_encoder(system.encoder).eval().requires_grad_(False))


@pytest.fixture
def listing(world: Path) -> Listing:
    return read_list(world / "train.jsonl")


def test_embeddings_tell_the_events_and_keep_the_rest(
    world: Path, system: SystemConfig, networks: Networks, materials: list[str], listing: Listing, tmp_path: Path
) -> None:
    truth = read_known_events(world / "events.jsonl", system, SECONDS)
    list(prepare([listing], tmp_path / "seen", networks, SECONDS))
    list(prepare([listing], tmp_path / "true", Networks(system, networks.encoder, events=truth), SECONDS))
    seen, true = (PreparedSource(tmp_path / name) for name in ("seen", "true"))
    assert (seen.recipe.events, true.recipe.events) == ("", truth.digest)
    events = {
        str((world / record["video_path"]).resolve()): record["events"]
        for record in map(json.loads, (world / "events.jsonl").read_text().splitlines())
    }
    width, count = event_width(len(materials)), 0
    for index, row in enumerate(true.rows):
        before, after = (source.load(index).embeddings for source in (seen, true))
        assert before is not None
        assert after is not None
        torch.testing.assert_close(after[:, width:], before[:, width:], rtol=0, atol=0)
        frames = {int(event["time"] * 25): event for event in events[str(row.video_path)]}
        assert set(np.flatnonzero(after[:, 0].numpy())) == set(frames)
        for frame, event in frames.items():
            assert after[frame, 0] == EVENT_SCALE
            assert materials[int(after[frame, 1 : 1 + len(materials)].argmax())] == event["material"]
            note = np.clip(69 + 12 * np.log2(event["pitch"] / 440) - 33, 0, NOTES - 1)
            assert abs(int(after[frame, 1 + len(materials) :][:NOTES].argmax()) - note) <= 0.5 + MAX_NOTE_ERROR
            count += 1
    assert count > 0


def test_notes_are_told_a_little_off_and_always_alike(world: Path, system: SystemConfig, materials: list[str]) -> None:
    truth = read_known_events(world / "events.jsonl", system, SECONDS)
    offs = []
    for path, labels in truth.clips.items():
        told = truth.correct(np.zeros((25, 128), np.float32), Path(path))
        np.testing.assert_array_equal(truth.correct(np.zeros((25, 128), np.float32), Path(path)), told)
        hit = (labels.onset > 0) & (labels.note > 5)  # the lowest notes are held at the first class
        shares = told[hit][:, 1 + len(materials) :][:, :NOTES] / EVENT_SCALE
        offs.extend(shares @ np.arange(NOTES) - labels.note[hit])
    assert NOTE_ERROR_STD / 2 < np.std(offs) < 2 * NOTE_ERROR_STD
    assert np.abs(offs).max() <= MAX_NOTE_ERROR + 0.01


def test_a_folder_holds_one_or_the_other(
    world: Path, system: SystemConfig, networks: Networks, listing: Listing, tmp_path: Path
) -> None:
    list(prepare([listing], tmp_path, networks, SECONDS))
    truth = read_known_events(world / "events.jsonl", system, SECONDS)
    with pytest.raises(OptionError, match=r"holds clips that were prepared otherwise .*events"):
        list(prepare([listing], tmp_path, Networks(system, networks.encoder, events=truth), SECONDS))


def test_clips_of_unknown_events_are_named(
    world: Path, system: SystemConfig, networks: Networks, listing: Listing, tmp_path: Path
) -> None:
    truth = read_known_events(world / "events.jsonl", system, SECONDS)
    fewer = type(truth)(tmp_path / "events.jsonl", dict(list(truth.clips.items())[:1]), truth.materials, "")
    with pytest.raises(OptionError, match=r"train\.jsonl: \d clips are not in .*events\.jsonl, such as "):
        list(prepare([listing], tmp_path / "out", Networks(system, networks.encoder, events=fewer), SECONDS))
    assert not (tmp_path / "out").exists()


def test_only_a_verdict_is_corrected(world: Path, system: SystemConfig) -> None:
    for encoder, said in (
        (MotionConfig((4, 8, 8), (1,)), "the model's encoder gives none"),
        (MotionConfig(materials=30), "but model.encoder.materials is 30"),
    ):
        with pytest.raises(OptionError, match=said):
            read_known_events(world / "events.jsonl", SystemConfig(encoder=encoder, frame_rate=25.0), SECONDS)
    truth = read_known_events(world / "events.jsonl", system, SECONDS)
    with pytest.raises(OptionError, match="events correct what a frame encoder says; none is given"):
        Networks(system, events=truth)

"""The tower learns from films, with labels and without, and goes on where it was stopped."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from train.demo.pretrain.films import Reel
from train.demo.pretrain.loop import Pretraining, PretrainSettings, mel_frames
from train.demo.pretrain.losses import most_hit
from train.demo.pretrain.regressor import STRETCH, regression_loss
from train.models.config import SystemConfig
from train.models.encoder import build_encoder
from vta_rt.errors import OptionError, VTAError

SETTINGS = PretrainSettings(steps=60, batch=4, window=16, warmup=5, learning_rate=5e-3, validate_every=60)


def start(system: SystemConfig, settings: PretrainSettings = SETTINGS, materials: int = 0) -> Pretraining:
    torch.manual_seed(0)
    system = replace(system, encoder=replace(system.encoder, materials=materials))
    return Pretraining(build_encoder(system.encoder), system, settings, materials=materials)


def test_learns_when_it_sounds(system: SystemConfig, reels: list[Reel]) -> None:
    rows = list(start(system).run(*(replace(reel, labels=None) for reel in reels)))
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["onset_f1"] > 0.8
    assert "valid_loss" not in rows[0]
    assert "valid_material" not in rows[-1]


def test_learns_what_sounds_from_labels(system: SystemConfig, reels: list[Reel]) -> None:
    run = start(system, replace(SETTINGS, steps=600, batch=8), materials=2)
    before = run.validate(reels[1])
    rows = list(run.run(*reels))
    assert rows[-1]["told_f1"] > 0.95 > before["told_f1"]
    assert rows[-1]["valid_material"] > 0.95 > before["valid_material"]
    assert rows[-1]["valid_pitch"] > 0.95 > before["valid_pitch"]
    assert rows[-1]["valid_thing"] > 0.95 > before["valid_thing"]
    assert rows[-1]["valid_size"] > 0.95 > before["valid_size"]
    assert rows[-1]["valid_ring"] > 0.95 > before["valid_ring"]


def test_of_a_glimpse_only_what_has_pictures_around_it_counts(system: SystemConfig, reels: list[Reel]) -> None:
    """One picture before and two after: labels of the others change nothing, those within do."""
    model = start(system, materials=2).model.eval()
    pictures, _, labels = reels[0].batch(40, 6, np.random.default_rng(0), zoomed=True)
    assert labels is not None

    def loss(frames: list[int]) -> float:
        thing = labels.thing.copy()
        thing[:, frames] = np.where(thing[:, frames] >= 0, 1 - thing[:, frames], -1)  # the other material
        return model.glimpse(pictures, replace(labels, thing=thing)).item()

    with torch.no_grad():
        assert loss([0, 4, 5]) == loss([])
        for inner in (1, 2, 3):
            assert loss([inner]) != loss([])


@pytest.mark.parametrize("told", ["onset", "material", "note", "level", "speed", "hit"])
def test_a_window_teaches_all_that_happens(system: SystemConfig, reels: list[Reel], told: str) -> None:
    model = start(system, materials=2).model.eval()
    pictures, _, labels = reels[0].batch(4, 16, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    values = getattr(labels, told)
    others = np.where(values >= 0, 1 - values if told in ("onset", "hit", "material") else values + 5, -1)
    with torch.no_grad():
        before, after = (
            model.loss(pictures, None, replace(labels, **{told: known.astype(values.dtype)}))
            for known in (values, others)
        )
    assert before.item() != after.item()


def test_what_is_hit_is_taught_where_most_is(system: SystemConfig, reels: list[Reel]) -> None:
    model = start(system, materials=2).model.eval()
    pictures, _, labels = reels[0].batch(8, 24, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    inside = np.zeros(labels.onset.shape, bool)
    for film, first in enumerate(most_hit(labels.onset, STRETCH)):
        inside[film, first : first + STRETCH] = True

    def loss(where: np.ndarray) -> float:
        material = np.where(where & (labels.material >= 0), 1 - labels.material, labels.material)
        return model.loss(pictures, None, replace(labels, material=material)).item()

    assert (labels.onset > 0)[~inside].any()
    with torch.no_grad():
        assert loss(~inside) == loss(inside & ~inside) != loss(inside)


@pytest.mark.parametrize("told", ["material", "note", "ring"])
def test_a_glimpse_teaches_what_is_struck_and_every_note(system: SystemConfig, reels: list[Reel], told: str) -> None:
    model = start(system, materials=2).model.eval()
    pictures, _, labels = reels[0].batch(40, 6, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    values = getattr(labels, told)
    others = np.where(values >= 0, 1 - values if told == "material" else values + 5, -1).astype(values.dtype)
    with torch.no_grad():
        before, after = (model.glimpse(pictures, replace(labels, **{told: known})) for known in (values, others))
    assert before.item() != after.item()


def test_a_glimpse_teaches_both_streams_what_a_hit_looks_like(system: SystemConfig, reels: list[Reel]) -> None:
    """The verdict on when something is hit stays as it is, and how moments are joined: glimpses are too short and eventful."""
    model = start(system, materials=2).model.train()
    pictures, _, labels = reels[0].batch(40, 6, np.random.default_rng(0), zoomed=True)
    assert labels is not None
    with torch.enable_grad():
        model.glimpse(pictures, labels).backward()
    taught = {name for name, parameter in model.tower.named_parameters() if parameter.grad is not None}
    for stream in ("when", "what"):
        assert {f"{stream}.stem.0.weight", f"{stream}.gaze.weight"} <= taught
    assert "verdict.is_hit.weight" in taught
    assert not any(name.startswith(("when.time", "when.value", "verdict.happens", "verdict.rest")) for name in taught)


def test_inner_layers_alone_have_an_optimizer_of_their_own(system: SystemConfig) -> None:
    model = start(system, materials=2).model
    hidden, rest = ({id(parameter) for parameter in each} for each in model.parts())
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    assert hidden | rest == set(names.values())
    assert not hidden & rest
    inner = {name for name in names if names[name] in hidden}
    for stream in ("when", "what"):
        assert {
            f"tower.{stream}.{layer}.weight" for layer in ("both.convolution", "value", "anywhere", "time.0.out")
        } <= inner
        assert not {f"tower.{stream}.{layer}" for layer in ("stem.0.weight", "gaze.weight", "both.norm.weight")} & inner
    assert all(name.startswith(("tower.when.", "tower.what.")) for name in inner)


def test_another_number_of_materials_is_refused(system: SystemConfig) -> None:
    for events, said in ((3, "the events are of 3 materials"), (0, "there are no events")):
        with pytest.raises(OptionError, match=rf"{said}, but model\.encoder\.materials is 2"):
            Pretraining(build_encoder(system.encoder), system, SETTINGS, materials=events)


def test_the_same_seed_trains_the_same_and_another_does_not(system: SystemConfig, reels: list[Reel]) -> None:
    def losses(settings: PretrainSettings) -> list[float]:
        return [row["loss"] for row in itertools.islice(start(system, settings).run(*reels), 2)]

    assert losses(SETTINGS) == losses(SETTINGS)
    assert losses(SETTINGS) != losses(replace(SETTINGS, seed=1))


def test_goes_on_exactly(system: SystemConfig, reels: list[Reel]) -> None:
    settings = replace(SETTINGS, steps=6, validate_every=3)
    whole = [row["loss"] for row in start(system, settings, 2).run(*reels)]
    stopped = start(system, settings, 2)
    list(itertools.islice(stopped.run(*reels), 3))
    state = copy.deepcopy(stopped.state())
    again = start(system, settings, 2)
    again.load(state)
    assert [row["loss"] for row in again.run(*reels, workers=3)] == whole[3:]  # however many draw ahead
    with pytest.raises(OptionError, match="other settings"):
        start(system, replace(settings, batch=2), 2).load(state)


def test_stops_when_the_loss_is_not_finite(system: SystemConfig, reels: list[Reel]) -> None:
    run = start(system)
    torch.nn.init.constant_(run.model.head.bias, float("inf"))
    with pytest.raises(VTAError, match=r"^step 1: the loss is (inf|nan)"):
        next(run.run(*reels))


def test_changes_count_in_every_band() -> None:
    """A click in one bin and the same energy spread over all differ by bin, not over the widest band."""
    true = torch.zeros(1, 8, 64)
    one_bin, spread = torch.zeros(1, 8, 64), torch.zeros(1, 8, 64)
    one_bin[:, 4:, 0], spread[:, 4:] = 1.0, 1 / 64
    assert regression_loss(true, true, 4) == 0
    expected = 0.5 / 64 + 4 * (1 / 64 + 1 / 64 / 8 + 1 / 64**2)
    assert regression_loss(one_bin, true, 4).item() == pytest.approx(expected, rel=1e-5)
    assert regression_loss(spread, true, 4) < regression_loss(one_bin, true, 4)


def test_pictures_and_mel_frames_must_come_out_even(system: SystemConfig) -> None:
    assert mel_frames(system) == 4
    with pytest.raises(OptionError, match=r"frame_rate is 30, 3\.33333 mel frames to a picture"):
        mel_frames(replace(system, frame_rate=30.0))

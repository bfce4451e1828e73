from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.prompts import BEGIN, END, save_tokenizer
from train.conditioning import Chance, Conditioner, Draws, Purpose
from train.data.sample import Sample
from train.models.config import CLIPConfig, SystemConfig, TextEncoderConfig, UNetConfig
from train.models.encoder_config import ImageBindConfig
from train.settings import ConditioningSettings
from vta_rt.errors import OptionError

CONFIG = SystemConfig(
    encoder=CLIPConfig(projection=16), text=TextEncoderConfig(projection=16, vocabulary=10, context=5)
)
MOMENTS = torch.zeros(16, 4, 4)
SILENT = Sample(name="no text", embeddings=torch.zeros(3, 16), moments=MOMENTS)
BELL = replace(SILENT, text="a bell")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")
    return str(path)


def chance(*, drop: float = 0.9, text: float = 0.0) -> Chance:
    return Chance(0, torch.zeros(1), torch.zeros(1), drop, text)


def conditioner(tokenizer: str, mode: Any, dropout: float = 0.1) -> Conditioner:
    return Conditioner(ConditioningSettings(mode=mode, dropout=dropout, tokenizer=tokenizer), CONFIG, frames=20)


def test_a_draw_follows_from_seed_purpose_and_number() -> None:
    shape = (8, 2, 3)
    draw = Draws(1, 1000)(7, shape)
    again = Draws(1, 1000)(7, shape)
    assert draw.noise.shape == draw.posterior.shape == shape
    assert draw.noise.equal(again.noise)
    assert (draw.timestep, draw.drop, draw.text) == (again.timestep, again.drop, again.text)
    for other in (Draws(2, 1000)(7, shape), Draws(1, 1000)(8, shape), Draws(1, 1000, Purpose.VALIDATION)(7, shape)):
        assert not draw.noise.equal(other.noise)
    assert not draw.noise.equal(draw.posterior)


def test_draws_are_spread_as_they_should() -> None:
    draws = [Draws(0, 1000)(number, (4, 4, 4)) for number in range(500)]
    timesteps = torch.tensor([float(draw.timestep) for draw in draws])
    noise = torch.stack([draw.noise for draw in draws])
    assert (timesteps.min(), timesteps.max()) == (pytest.approx(0, abs=15), pytest.approx(999, abs=15))
    assert timesteps.mean() == pytest.approx(500, abs=40)
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))
    assert sum(draw.drop < 0.1 for draw in draws) == pytest.approx(50, abs=20)


def test_joint_is_drawn_once_a_step_or_for_every_sample() -> None:
    by_step, by_sample = Draws(0, 1000, batch=4), Draws(0, 1000)
    texts = [by_step(number, (1, 1, 1)).text for number in range(12)]
    assert [len(set(texts[first : first + 4])) for first in (0, 4, 8)] == [1, 1, 1]
    assert len(set(texts)) == 3
    assert len({by_sample(number, (1, 1, 1)).text for number in range(12)}) == 12


@pytest.mark.parametrize(
    ("mode", "text", "has_prompt", "has_visual"),
    [
        ("video", 0.0, False, True),
        ("text", 0.0, True, False),
        ("joint", 0.49, True, False),
        ("joint", 0.5, False, True),
        ("concat", 0.0, True, True),
    ],
)
def test_modes(tokenizer: str, mode: str, text: float, has_prompt: bool, has_visual: bool) -> None:
    condition = conditioner(tokenizer, mode)(BELL, chance(text=text))
    assert (condition.prompt is not None, condition.visual is not None) == (has_prompt, has_visual)
    assert condition.length == 3
    assert not condition.is_dropped
    if condition.prompt is not None:
        assert condition.prompt.tolist() == [BEGIN, 1, 2, END]


@pytest.mark.parametrize(
    ("mode", "is_dropped"), [("video", False), ("text", True), ("joint", False), ("concat", False)]
)
def test_without_description_the_frames_stand_alone(tokenizer: str, mode: str, is_dropped: bool) -> None:
    condition = conditioner(tokenizer, mode)(SILENT, chance())
    assert condition.prompt is None
    assert (condition.visual is None) == is_dropped == condition.is_dropped


def test_a_prompt_stands_as_often_as_frames_have_tokens(tokenizer: str) -> None:
    config = replace(CONFIG, encoder=ImageBindConfig(projection=16))
    choose = Conditioner(ConditioningSettings(mode="concat", tokenizer=tokenizer), config, frames=20)
    frames = Sample(name="", text="a bell", frames=torch.zeros(7, 2, 2, 3, dtype=torch.uint8), wave=torch.zeros(1))
    embeddings = Sample(name="", text="a bell", embeddings=torch.zeros(4, 16), wave=torch.zeros(1))
    assert choose(frames, chance()).length == choose(embeddings, chance()).length == 4


def test_dropout(tokenizer: str) -> None:
    for drop, is_dropped in ((0.09, True), (0.1, False)):
        assert conditioner(tokenizer, "video")(BELL, chance(drop=drop)).is_dropped == is_dropped
    assert not conditioner(tokenizer, "video")(BELL, chance(drop=0.0), dropout=0.0).is_dropped


def test_long_prompts_are_cut_and_still_end(tokenizer: str) -> None:
    condition = conditioner(tokenizer, "text")(replace(BELL, text="a bell " * 9), chance())
    assert condition.prompt is not None
    assert condition.prompt.tolist() == [BEGIN, 1, 2, 1, END]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": None}, r"'text': the model has no text encoder \(section \[model.text\]\)"),
        ({"text": TextEncoderConfig(projection=8)}, r"^model.text.projection is 8 and model.encoder.projection 16: "),
        ({"unet": UNetConfig(aligned_channels=8)}, r"'text': the time-aligned path .* takes frames alone"),
        (
            {"text": TextEncoderConfig(projection=16, vocabulary=11)},
            r"is not CLIP's tokenizer.json: prompts must end with token 10",
        ),
    ],
)
def test_models_that_take_no_text(tokenizer: str, changes: dict[str, Any], message: str) -> None:
    settings = ConditioningSettings(mode="text", tokenizer=tokenizer)
    with pytest.raises(OptionError, match=message):
        Conditioner(settings, replace(CONFIG, **changes), frames=20)


def test_tokenizers_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    for path, message in (
        ("", "give conditioning.tokenizer"),
        ("nowhere", "is not there"),
        (str(file), "is no tokenizer"),
    ):
        with pytest.raises(OptionError, match=message):
            conditioner(path, "text")

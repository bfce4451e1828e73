from __future__ import annotations

from pathlib import Path

import pytest

from train.models.config import MotionConfig, SystemConfig
from train.settings import TrainSettings, convert_settings, model_config, read_settings, to_dict
from vta_rt.errors import OptionError


def test_defaults_are_the_published_training_with_its_defects_mended() -> None:
    published, mended = read_settings("published"), read_settings(None)
    assert model_config(published) == model_config(mended) == SystemConfig()
    mended_by = ["optimizer.train_projection=true", "loss.weighting=v", "conditioning.dropout=0.1"]
    switches = [*mended_by, "checkpoints.keep=2"]  # disks are not endless
    values = to_dict(read_settings("published", switches))
    assert values | {"model": {}} == to_dict(mended)


def test_demo_recipe() -> None:
    settings = read_settings("demo")
    config = model_config(settings)
    assert isinstance(config.encoder, MotionConfig)
    assert config.unet.aligned_channels == 16
    assert settings.data.seconds * config.frame_rate == 128


def test_overrides_come_last(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("seed = 3\n[optimizer]\nlearning_rate = 1\n")
    overrides = [
        "optimizer.learning_rate=2e-4",
        "model.unet.block_out_channels=[32, 64]",
        "out=runs/a b",
        "loss.weighting=noise",
    ]
    settings = read_settings(str(file), overrides)
    assert settings.seed == 3
    assert settings.optimizer.learning_rate == 2e-4
    assert settings.model["unet"]["block_out_channels"] == [32, 64]
    assert settings.out == "runs/a b"
    assert settings.loss.weighting == "noise"


def test_what_is_written_reads_back() -> None:
    settings = read_settings("demo", ["machine.trackers=['tensorboard']"])
    assert convert_settings(to_dict(settings), "test") == settings


def test_first_sections_give_way_to_the_model_section() -> None:
    settings = convert_settings({"model": {"vae": {"latent_channels": 4}}}, "test")
    config = model_config(settings, base={"vae": {"latent_channels": 2, "norm_groups": 8}, "frame_rate": 5.0})
    assert (config.vae.latent_channels, config.vae.norm_groups, config.frame_rate) == (4, 8, 5.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.learning_rte=1",
            r"unknown optimizer.learning_rte; did you mean optimizer.learning_rate\? \(allowed here: ",
        ),
        ("conditoning.dropout=1", r"unknown conditoning; did you mean conditioning\?"),
        ("optimizer.learning_rate=fast", r"optimizer.learning_rate: Expected `float`, got `str`$"),
        ("optimizer.learning_rate=0", r"optimizer.learning_rate: Expected `float` > 0.0$"),
        ("conditioning.dropout=1.5", r"conditioning.dropout: Expected `float` <= 1.0$"),
        (
            "conditioning.mode=audio",
            r"conditioning.mode: .*'audio'; one of 'video', 'text', 'joint', 'concat' is needed$",
        ),
        ("length.batch=0", r"length.batch: Expected `int` >= 1$"),
        ("optimizer=3", r"optimizer: Expected `object`, got `int`$"),
        ("model.unet.width=3", r"\[model\]: unknown unet.width"),
        ("seed", r"^'seed': settings are given as key=value"),
        ("seed.x.y=1", r"^seed: Expected `int`"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("^seed", "settings: seed")) as error:
        read_settings(None, [override])
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"^nowhere.toml: cannot be read .*; give a TOML file or one of demo, published, text$"
    ):
        read_settings("nowhere.toml")
    file = tmp_path / "bad.toml"
    file.write_text("a = = 1")
    with pytest.raises(OptionError, match=r"bad.toml: is not valid TOML"):
        read_settings(str(file))


def test_nothing_is_shared_between_settings() -> None:
    first = TrainSettings()
    first.model["frame_rate"] = 1.0
    assert TrainSettings().model == {}

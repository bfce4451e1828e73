"""What ``benchmarks/family.py`` tells training of its variants; nothing is trained here."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from train.model import LatentDiffusion
from train.models.config import MelConfig, VAEConfig
from train.settings import convert_settings, model_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPTIONS = argparse.Namespace(steps=3, batch=2, seed=0)
FIRST_STAGE = {"vae": asdict(VAEConfig()), "mel": asdict(MelConfig()), "training": "not the model's"}


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("family", BENCHMARKS / "family.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "family", module)  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_ten_variants_differ_in_their_conditions_alone(family: ModuleType) -> None:
    denoisers = set()
    for variant in family.VARIANTS:
        values = tomllib.loads(family.toml(family.settings(variant, FIRST_STAGE, OPTIONS)))
        told = convert_settings(values, variant.name)
        config = model_config(told)
        assert (config.text is None) == (told.conditioning.mode == "video"), variant.name
        assert config.text is None or config.text.projection == config.encoder.projection
        model = LatentDiffusion(config, told.optimizer, told.loss)
        assert model.vid_fea_extractor.linear_layer.out_features == config.unet.cross_attention_dim
        denoisers.add((config.unet, config.vae, told.length, told.optimizer, told.seed))
    assert len(family.VARIANTS) == 10
    assert len(denoisers) == 1


def test_table_has_a_cell_for_every_heading(family: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"parameters": 5, "text_parameters": 7, "operations": 2e9, "encode_s": 0.5, "tokens_per_second": 2.0}
    scores = {"f1_100": 0.5, "f1_50": 0.25, "others_f1_100": 0.125, "kind": None}
    row |= {"loss": [0.9, 0.3], "loss_of_prompts_alone": [1.0, 0.9], "scores": scores}
    family._print({"full_size": [], "tiny": {"one": row}, "true_sound": scores | {"kind": 1.0}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "| one | 5 + 7 text | 2.000 | 500.0 ms | 20 | 1.000 to 0.900; 0.900 to 0.300 | 0.500 | 0.250 | 0.125 | n/a |"
    )
    assert {line.count("|") for line in lines} == {len(family.HEADINGS) + 1}

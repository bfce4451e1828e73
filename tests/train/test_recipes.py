"""The recipes that are shell scripts call commands that exist, with options and settings that they take."""

from __future__ import annotations

import json
import os
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from train.demo.pretrain.task import PretrainSettings
from train.first_stage.task import VAESettings, VocoderSettings
from train.settings import TrainSettings, override_settings, read_values
from vta_rt.errors import OptionError

ROOT = Path(__file__).parents[2]
SETTINGS = {"vae": VAESettings, "vocoder": VocoderSettings, "pretrain": PretrainSettings, "": TrainSettings}
WITH_SETTINGS = {"train.run": "", "train.demo.pretrain.__main__": "pretrain", "train.first_stage.__main__": None}
RECORD = '#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open("LOG", "a"))\n'


@pytest.fixture
def calls(tmp_path: Path) -> list[list[str]]:
    """Arguments of every call that trial.sh makes of Python, none of which runs."""
    for name in ("python", "vta"):
        (tmp_path / name).write_text(RECORD.replace("LOG", str(tmp_path / f"{name}.log")))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "test.jsonl").write_text('{"video_path": "video/1.mp4"}\n')
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = ROOT / "train" / "recipes" / "trial.sh"
    subprocess.run([script, tmp_path], env=environment, capture_output=True, check=True)
    (vta,) = (tmp_path / "vta.log").read_text().splitlines()
    assert json.loads(vta)[:2] == ["generate", str(tmp_path / "world" / "video" / "1.mp4")]
    return [json.loads(line) for line in (tmp_path / "python.log").read_text().splitlines()]


def test_trial(calls: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [name for _, name, *_ in calls]
    assert modules == [
        *("train.demo.synthetic", "train.first_stage", "train.first_stage", "train.prepare", "train.demo.pretrain"),
        *("train.prepare", "train.run", "train.run", "export.build", "train.demo.evaluate"),
    ]
    for _, name, *arguments in calls:
        module = import_module(name if (ROOT / f"{name.replace('.', '/')}.py").is_file() else f"{name}.__main__")
        if module.__name__ not in WITH_SETTINGS:
            module._parser().parse_args(arguments)
            continue
        parse, parsed = module.parse, []

        def stop(parser: object, arguments: object, parse=parse, parsed=parsed) -> None:
            parsed.append(parse(parser, arguments))
            raise OptionError("enough is known")

        monkeypatch.setattr(module, "parse", stop)
        assert module.main(arguments) == 2
        (options,) = parsed
        task = getattr(options, "half", WITH_SETTINGS[module.__name__])
        override_settings(read_values(options.config, task), options.settings, name, SETTINGS[task])
        monkeypatch.undo()

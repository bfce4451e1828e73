"""The command line of preparing: what is named is opened, what is wrong is one line, a kill leaves nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import train.prepare
from train.data.prepared import PreparedSource
from train.models.config import MotionConfig, SystemConfig, UNetConfig, VAEConfig, to_dict
from train.models.encoder import build_encoder
from train.models.vae import build_vae
from train.models.weights import fingerprint
from train.prepare import main

CONFIG = SystemConfig(
    encoder=MotionConfig((4, 8, 8), (1,), image_size=16, projection=8, tokens_dim=8),
    unet=UNetConfig((8, 8), (1, 1), 8, layers_per_block=1, norm_groups=4),
    vae=VAEConfig((8, 8, 8), layers_per_block=1, norm_groups=4),
    frame_rate=12.5,
)
TIMES = ["--seconds", "0.64", "--workers", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training leaves it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    state = build_encoder(CONFIG.encoder).state_dict()
    save_file({f"vid_fea_extractor.{name}": tensor for name, tensor in state.items()}, folder / "model_2.safetensors")
    build_vae(CONFIG.vae).save_pretrained(folder / "vae")
    (folder / "config.json").write_text(json.dumps(to_dict(CONFIG)))
    return folder


def test_a_checkpoint_prepares_all_lists(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = [str(world / f"{split}.jsonl") for split in ("train", "valid", "test")]
    command = [*lists, "--out", str(tmp_path), "--checkpoint", str(model), *TIMES]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{tmp_path}: 10 prepared, 0 there already, 0 skipped, ")
    assert [len(PreparedSource(tmp_path / f"{split}.jsonl")) for split in ("train", "valid", "test")] == [8, 1, 1]
    source = PreparedSource(tmp_path / "train.jsonl")
    assert source.recipe.tensors == {"embeddings", "moments"}
    assert main(command) == 0
    assert "0 prepared, 10 there already, 0 skipped" in capsys.readouterr().out


def test_parts_may_be_named_one_by_one(world: Path, model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(CONFIG.encoder)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    common = [str(world / "test.jsonl"), "--config", str(model / "config.json"), *TIMES]
    parts = {
        "both": ["--encoder", str(tmp_path / "encoder.safetensors"), "--first-stage", str(model)],
        "tower": ["--encoder", str(tmp_path / "encoder.safetensors")],
        "vae": ["--first-stage", str(model / "vae")],
        "none": ["--frames-only"],
    }
    for name, options in parts.items():
        assert main([*common, "--out", str(tmp_path / name), *options]) == 0
    kept = ["--checkpoint", str(model), "--keep-frames", *TIMES, "--out", f"{tmp_path}/kept"]
    assert main([str(world / "test.jsonl"), *kept]) == 0
    recipes = {name: PreparedSource(tmp_path / name).recipe for name in (*parts, "kept")}
    assert {name: recipe.tensors for name, recipe in recipes.items()} == {
        "both": {"embeddings", "moments"},
        "tower": {"embeddings", "wave"},
        "vae": {"frames", "moments"},
        "none": {"frames", "wave"},
        "kept": {"frames", "moments"},
    }
    assert recipes["both"].tower == recipes["tower"].tower == fingerprint(encoder.tower)
    assert recipes["both"].vae == recipes["kept"].vae


def test_skipped_clips_are_counted_and_named(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.loads((world / "test.jsonl").read_text())
    good = {key: str(world / line[key]) for key in ("video_path", "audio_file")}
    bad = good | {"audio_file": "none.wav"}
    (tmp_path / "mixed.jsonl").write_text("\n".join([json.dumps(good), json.dumps(bad), "{"]))
    out = tmp_path / "out"
    command = [str(tmp_path / "mixed.jsonl"), "--config", str(model / "config.json"), "--frames-only", *TIMES]
    assert main([*command, "--out", str(out)]) == 0
    assert f"1 prepared, 0 there already, 2 skipped (why: {out / 'skipped.json'})" in capsys.readouterr().out
    assert len(json.loads((out / "skipped.json").read_text())["mixed"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --checkpoint or --config"),
        (["--config", "c.json", "--checkpoint", "m"], "give either --checkpoint or --config"),
        (["--checkpoint", "none"], "none: is no folder; one with config.json and model_2.safetensors is needed"),
        (["--config", "none.json"], "none.json: cannot be read (No such file or directory)"),
        (
            ["--config", "MODEL/config.json"],
            "give --encoder, --first-stage or both, or --frames-only to use no network",
        ),
        (["--config", "MODEL/config.json", "--encoder", "none"], "none: cannot be read"),
        (["--config", "MODEL/config.json", "--first-stage", "none"], "none: holds no autoencoder"),
        (["--config", "MODEL/config.json", "--frames-only", "--seconds", "0"], "seconds is 0, at least 0.04 is needed"),
        (["--config", "MODEL/config.json", "--frames-only", "--seconds", "1e9"], "seconds is 1e+09, at most 3600"),
        (["--config", "MODEL/config.json", "--frames-only", "--workers", "-1"], "workers is -1"),
        (
            ["--config", "MODEL/config.json", "--frames-only", "--events", "none"],
            "--events correct a motion tower's verdict; the model's encoder gives none",
        ),
        (["--config", "demo", "--frames-only", "--events", "none.jsonl"], "none.jsonl: cannot be read"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    options: list[str],
    message: str,
    world: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [option.replace("MODEL", str(model)) for option in options]
    assert main([str(world / "test.jsonl"), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_list_that_is_missing_is_named(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out"), "--checkpoint", str(model)]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none.jsonl'}: cannot be read (No such file")


def test_an_interrupted_run_says_one_word_and_is_finished_by_the_next(world: Path, model: Path, tmp_path: Path) -> None:
    line = (world / "test.jsonl").read_text()
    paths = {key: str(world / value) for key, value in json.loads(line).items() if key != "description"}
    (tmp_path / "many.jsonl").write_text(
        "".join(json.dumps(copy(paths, tmp_path / f"{n}.mp4")) + "\n" for n in range(300))
    )
    out = tmp_path / "out"
    options = ["--out", str(out), "--config", str(model / "config.json"), "--frames-only", "--seconds", "0.64"]
    process = subprocess.Popen(
        [sys.executable, "-m", "train.prepare", str(tmp_path / "many.jsonl"), *options, "--workers", "2"],
        env=os.environ | {"PYTHONPATH": str(Path(train.prepare.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    )
    deadline = time.monotonic() + 300
    while len(list(out.glob("clips/[!.]*"))) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")
    made = len(list((out / "clips").iterdir()))
    assert 8 <= made < 300
    assert not list(out.rglob("*.part.*"))
    assert not list(out.glob("*.jsonl"))
    (tmp_path / "many.jsonl").write_text("".join((tmp_path / "many.jsonl").read_text().splitlines(True)[: made + 2]))
    assert main([str(tmp_path / "many.jsonl"), *options, "--workers", "1"]) == 0
    assert len(PreparedSource(out)) == made + 2


def copy(paths: dict[str, str], link: Path) -> dict[str, str]:
    """The same clip under another name."""
    os.link(paths["video_path"], link)
    return paths | {"video_path": str(link)}

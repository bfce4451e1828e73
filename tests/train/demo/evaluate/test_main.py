"""The command writes its three kinds of results, the same on every run, and refuses what is wrong before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from train.data.audio import read_audio, to_int16
from train.demo.evaluate import systems
from train.demo.evaluate.__main__ import main
from train.demo.synthetic.audio import synthesise
from train.demo.synthetic.dataset import ground_truth, split_of, write_video
from train.demo.synthetic.render import Camera
from train.demo.synthetic.scene import compose
from vta_rt import Pipeline
from vta_rt.audio import Audio
from vta_rt.sampling import Sampling
from vta_rt.schedule import NoiseSchedule
from vta_rt.verification import sha256_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of sixty clips of two seconds, with videos of the first two test clips alone: the others are not looked at."""
    out = tmp_path_factory.mktemp("data") / "world"
    (out / "audio").mkdir(parents=True)
    (out / "video").mkdir()
    records = []
    for index in range(60):
        rng = np.random.default_rng([5, index])
        scene = compose(rng, 2.0)
        names = {"video_path": f"video/{index:06}.mp4", "audio_file": f"audio/{index:06}.wav"}
        records.append({**names, "split": split_of(index), **ground_truth(scene)})
        Audio(synthesise(scene, rng), 16_000).save(out / names["audio_file"])
        if index in (9, 19):
            write_video(out / names["video_path"], scene, Camera(scene))
    (out / "events.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (out / "dataset.json").write_text(json.dumps({"seed": 5}))
    return out


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles ``good``, whose sound is the true one a little noisier, and ``late``, whose sound is 150 ms late."""

    def open_bundle(name: str, *_: object) -> SimpleNamespace:
        def generate(video: Path, *, seed: int, **_: object) -> SimpleNamespace:
            wave = read_audio(video.parents[1] / "audio" / f"{video.stem}.wav", 16_000)
            wave += 1e-3 * np.random.default_rng(seed).standard_normal(len(wave), np.float32)
            return SimpleNamespace(samples=np.concatenate([wave[:2400], wave[:-2400]]) if name == "late" else wave)

        own = SimpleNamespace(manifest=SimpleNamespace(sampling=Sampling(4, "ddim", 2.0)))
        return SimpleNamespace(generate=generate, schedule=NoiseSchedule(), bundle=own)

    monkeypatch.setattr(systems, "open_bundle", open_bundle)


def run(world: Path, out: Path, *more: str) -> int:
    return main(["--data", str(world), "--clips", "6", "--out", str(out), "--threads", "1", *more])


@pytest.mark.usefixtures("perfect")
def test_the_whole_command(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "Shuffled", lambda *_: lambda clip: clip.audio[::-1].copy())
    arguments = [
        "--bundle",
        "good",
        "--compare",
        "late=late",
        "--controls",
        "--pictures",
        "1",
        "--keep",
        "--steps",
        "25",
        "--guidance-interval",
        "0.3",
        "5",
    ]
    assert run(world, tmp_path / "a", *arguments) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "a" / "table.md").read_text(encoding="utf-8").startswith(printed)
    content = json.loads((tmp_path / "a" / "report.json").read_text(encoding="utf-8"))
    assert content["settings"] == {"split": "test", "clips": 6, "seed": 0, "first_stage": None}
    sampling = {"steps": 25, "solver": "ddim", "guidance": 2.0, "spacing": None, "guidance_interval": [0.3, 5.0]}
    assert "guided at levels 0.3 to 5" in (tmp_path / "a" / "table.md").read_text(encoding="utf-8")
    assert content["bundles"]["late"] == {"path": "late", "sampling": sampling}  # its own, but for what is asked
    assert content["data"] == {"seed": 5}
    assert content["versions"]["numpy"] == np.__version__
    f1 = {name: scores["f1_100"] for name, scores in content["scores"].items()}
    assert list(f1) == [
        "generated",
        "late",
        "generated, other clips' events",
        "noise of the same level",
        "generated, frames shuffled",
        "true sound",
    ]
    assert f1["generated"] > 0.9
    assert f1["true sound"] > 0.9
    assert max(f1["late"], f1["noise of the same level"], f1["generated, other clips' events"]) < 0.6
    assert sorted(file.name for file in (tmp_path / "a" / "wavs").iterdir()) == ["generated", "late"]
    assert len(list((tmp_path / "a" / "wavs" / "late").iterdir())) == 6
    assert len(list((tmp_path / "a").glob("*.png"))) == 1

    assert run(world, tmp_path / "b", *arguments) == 0
    assert (tmp_path / "a" / "report.json").read_bytes() == (tmp_path / "b" / "report.json").read_bytes()
    assert not list((tmp_path / "a").glob(".*"))


def test_a_real_bundle_is_run_clip_by_clip(world: Path, bundle_10s: Path, tmp_path: Path) -> None:
    """Made-up weights without positions, one window a clip: the pipeline's sound, whatever the frames' order."""
    more = ("--bundle", str(bundle_10s), "--controls", "--steps", "2", "--pictures", "0", "--clips", "2", "--keep")
    assert run(world, tmp_path, *more, "--seed", "3") == 0
    pipeline = Pipeline(bundle_10s)
    for seed, name in ((3, "000009"), (4, "000019")):
        audio = pipeline.generate(world / "video" / f"{name}.mp4", seed=seed, steps=2)
        kept = to_int16(read_audio(tmp_path / "wavs" / "generated" / f"{name}.wav", 16_000))
        np.testing.assert_allclose(kept, audio.to_int16(), atol=2)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["bundles"]["generated"]["sha256"] == sha256_of(bundle_10s / "bundle.json")
    shuffled, ordered = (content["scores"][name] for name in ("generated, frames shuffled", "generated"))
    assert (shuffled["clips"], ordered["clips"]) == (2, 2)
    assert shuffled["mel_nepers"] == pytest.approx(ordered["mel_nepers"], rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bundle", "nowhere/at/all"), "nowhere/at/all: no such file or folder"),
        (("--clips", "7"), "clips is 7, but"),
        (("--split", "tests"), "has no split 'tests'; there are"),
        (("--compare", "late"), "compare is 'late', NAME=PATH is needed"),
        (("--compare", "generated=x"), "with a name of your own"),
        (("--pictures", "-1"), "pictures is -1, an integer of 0 or more is needed"),
        (("--first-stage", "nowhere"), "nowhere: holds no autoencoder"),
    ],
)
def test_bad_input_is_one_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(world, tmp_path, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("perfect")
def test_a_wrong_solver_is_refused_before_the_work(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, tmp_path, "--bundle", "good", "--solver", "euler") == 2
    assert "solver is 'euler'" in capsys.readouterr().err


def test_data_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "no --data given" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_av_align_of_a_video_with_sound(
    write_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "clip.mp4", sound=0.1 * rng.standard_normal(16_000, np.float32))
    assert main(["--av-align", str(video), "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "av_align.json").read_text(encoding="utf-8"))
    assert content["videos"][0]["video"] == str(video)
    assert "| *mean* |" in capsys.readouterr().out
    assert main(["--av-align", str(write_video(tmp_path / "mute.mp4")), "--out", str(tmp_path / "out")]) == 2
    assert "mute.mp4: has no sound" in capsys.readouterr().err

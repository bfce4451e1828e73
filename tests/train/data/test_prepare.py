"""Prepared clips hold what the networks say of the clips; a run goes on where it was; a folder never mixes two makings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from train.data.lists import Listing, read_list
from train.data.prepare import Networks, prepare
from train.data.prepared import PreparedSource
from train.data.raw import RawSource
from train.data.sample import SampleError, Window
from train.models.config import SystemConfig, VAEConfig
from train.models.encoder import build_encoder
from train.models.mel import log_mel
from train.models.vae import build_vae
from train.models.weights import fingerprint
from vta_rt.errors import OptionError

SECONDS = 0.64


@pytest.fixture(scope="module")
def networks(system: SystemConfig) -> Networks:
    torch.manual_seed(0)
    encoder = build_encoder(system.encoder).eval().requires_grad_(False)
    return Networks(system, encoder, build_vae(system.vae).eval().requires_grad_(False))


@pytest.fixture(scope="module")
def kept(system: SystemConfig) -> Networks:
    """No network at all."""
    return Networks(system)


@pytest.fixture
def listing(clips: Path) -> Listing:
    return read_list(clips)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(listing: Listing, out: Path, networks: Networks, **options: int) -> list[str]:
    """What became of each clip."""
    outcomes = prepare([listing], out, networks, SECONDS, **options)
    return ["skipped" if outcome.reason else "made" if outcome.is_new else "kept" for outcome in outcomes]


def test_pictures_and_sound_are_kept_as_they_are(
    listing: Listing, kept: Networks, window: Window, tmp_path: Path
) -> None:
    assert run(listing, tmp_path, kept, workers=2) == ["made"] * 5
    source, raw = PreparedSource(tmp_path), RawSource(listing, window)
    assert (len(source), source.window, source.recipe.tensors) == (5, window, {"frames", "wave"})
    for index in range(5):
        found, expected = source.load(index), raw.load(index)
        assert (found.name, found.text) == (expected.name, expected.text)
        torch.testing.assert_close(found.frames, expected.frames, rtol=0, atol=0)
        torch.testing.assert_close(found.wave, expected.wave, rtol=0, atol=1 / 32768)
        np.testing.assert_array_equal(source.frames(index, 2, 3), expected.frames[2:5].numpy())
        np.testing.assert_array_equal(source.wave(index), found.wave.numpy())
    assert source.frame_count == 8
    row = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[1])
    assert (row["name"], row["frames"], row["description"]) == (f"{listing.path}:2", 8, "a tone, number 1")
    assert row["video_path"] == str(listing.path.parent / "1.mp4")


@pytest.mark.parametrize("batch", [1, 3])
def test_networks_see_what_training_would_show_them(
    batch: int, listing: Listing, networks: Networks, window: Window, tmp_path: Path
) -> None:
    run(listing, tmp_path, networks, batch=batch)
    source, raw = PreparedSource(tmp_path), RawSource(listing, window)
    assert source.recipe.tensors == {"embeddings", "moments"}
    for index in range(5):
        found, clip = source.load(index), raw.load(index)
        assert clip.wave is not None
        torch.testing.assert_close(found.embeddings, networks.encoder.embed(clip.frames))
        moments = networks.vae.encode(log_mel(clip.wave[None], networks.config.mel)[:, None]).latent_dist.parameters[0]
        assert moments.shape == (16, 16, 16)
        torch.testing.assert_close(found.moments, moments, rtol=1e-4, atol=1e-4)
        assert found.embeddings.dtype == found.moments.dtype == torch.float32


def test_pictures_may_be_kept_where_sound_is_encoded(listing: Listing, networks: Networks, tmp_path: Path) -> None:
    run(listing, tmp_path, replace(networks, encoder=None))
    assert PreparedSource(tmp_path).recipe.tensors == {"frames", "moments"}


def test_processes_write_the_same_files(listing: Listing, networks: Networks, tmp_path: Path) -> None:
    run(listing, tmp_path / "one", networks)
    run(listing, tmp_path / "two", networks, workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_what_lies_prepared_is_not_decoded_again(
    listing: Listing, kept: Networks, networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip whose file is missing or damaged is read from its video; with other pictures nothing can be begun."""
    run(listing, tmp_path / "films", kept)
    run(listing, tmp_path / "direct", replace(networks, vae=None))
    files = sorted((tmp_path / "films" / "clips").iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    read: list[int] = []
    load = RawSource.load
    monkeypatch.setattr(RawSource, "load", lambda self, index: read.append(index) or load(self, index))
    outcomes = prepare([listing], tmp_path / "again", replace(networks, vae=None), SECONDS, reuse=tmp_path / "films")
    assert len(list(outcomes)) == 5
    assert len(read) == 2
    direct, again = (PreparedSource(tmp_path / name) for name in ("direct", "again"))
    for index in range(5):
        torch.testing.assert_close(again.load(index).embeddings, direct.load(index).embeddings, rtol=0, atol=0)
        torch.testing.assert_close(again.load(index).wave, direct.load(index).wave, rtol=0, atol=1 / 32768)
    for folder, message in ((tmp_path / "again", "cannot be reused"), (tmp_path, "a folder written by train.prepare")):
        with pytest.raises(OptionError, match=message):
            next(prepare([listing], tmp_path / "new", networks, SECONDS, reuse=folder))
    with pytest.raises(OptionError, match="cannot be reused"):
        next(prepare([listing], tmp_path / "new", networks, 2 * SECONDS, reuse=tmp_path / "films"))
    assert not (tmp_path / "new").exists()


def test_a_run_that_was_stopped_goes_on(listing: Listing, kept: Networks, tmp_path: Path) -> None:
    run(listing, tmp_path / "whole", kept)
    out = tmp_path / "stopped"
    outcomes = prepare([listing], out, kept, SECONDS, batch=1)
    first, second = next(outcomes), next(outcomes)
    outcomes.close()
    assert not list(out.glob("*.jsonl"))
    files = sorted((out / "clips").iterdir())
    assert len(files) == 2
    stamps = [path.stat().st_mtime_ns for path in files]
    assert run(listing, out, kept) == ["kept"] * 2 + ["made"] * 3
    assert [path.stat().st_mtime_ns for path in files] == stamps
    assert hashes(out) == hashes(tmp_path / "whole")
    assert (first.name, second.name) == (f"{listing.path}:1", f"{listing.path}:2")


def test_damaged_files_and_leftovers_are_made_anew(listing: Listing, kept: Networks, tmp_path: Path) -> None:
    run(listing, tmp_path, kept)
    whole = hashes(tmp_path)
    cut, other, _ = sorted((tmp_path / "clips").iterdir())[:3]
    cut.write_bytes(cut.read_bytes()[:-10])
    safetensors.numpy.save_file({"else": np.zeros(3)}, other)
    (tmp_path / "clips" / ".0123.part.safetensors").write_bytes(b"half")
    assert sorted(run(listing, tmp_path, kept)) == ["kept"] * 3 + ["made"] * 2
    assert hashes(tmp_path) == whole


def test_a_changed_clip_is_made_anew(clips: Path, kept: Networks, tmp_path: Path) -> None:
    for path in clips.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    listing = read_list(tmp_path / clips.name)
    run(listing, tmp_path / "out", kept)
    (tmp_path / "3.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    assert run(listing, tmp_path / "out", kept) == ["kept"] * 4 + ["made"]


def test_another_text_needs_no_new_files(clips: Path, kept: Networks, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in clips.read_text().splitlines()]
    paths = {key: str(clips.parent / lines[0][key]) for key in ("video_path", "audio_file")}
    out, path = tmp_path / "out", tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(paths | {"description": text}) + "\n" for text in ("one", "two")))
    assert run(read_list(path), out, kept) == ["made", "made"]
    assert len(list((out / "clips").iterdir())) == 1
    assert [PreparedSource(out).load(index).text for index in range(2)] == ["one", "two"]
    path.write_text(json.dumps(paths | {"description": "three"}))
    assert run(read_list(path), out, kept) == ["kept"]
    assert PreparedSource(out).load(0).text == "three"


def test_what_cannot_be_read_is_named_and_left_out(clips: Path, kept: Networks, tmp_path: Path) -> None:
    def write(name: str, lines: list[str]) -> Listing:
        (tmp_path / name).write_text("\n".join(lines))
        return read_list(tmp_path / name)

    good = json.dumps({"video_path": str(clips.parent / "0.mp4"), "audio_file": str(clips.parent / "0.wav")})
    bad = json.dumps({"video_path": "none.mp4", "audio_file": str(clips.parent / "0.wav")})
    train, valid = write("train.jsonl", [bad, good, "{", bad]), write("valid.jsonl", [good, bad])
    out = tmp_path / "out"
    assert run(train, out, kept) == ["skipped", "skipped", "made"]
    assert run(valid, out, kept) == ["kept", "skipped"]
    skipped = json.loads((out / "skipped.json").read_text())
    assert {name: list(reasons) for name, reasons in skipped.items()} == {
        "train": [f"{train.path}:3", f"{train.path}:1", f"{train.path}:4"],
        "valid": [f"{valid.path}:2"],
    }
    assert skipped["valid"][f"{valid.path}:2"] == f"{tmp_path / 'none.mp4'}: no such file"
    assert len(PreparedSource(out / "train.jsonl")) == 1
    with pytest.raises(OptionError, match=r"name one of the lists in this folder: train\.jsonl, valid\.jsonl"):
        PreparedSource(out)


def test_a_folder_never_mixes_two_makings(listing: Listing, networks: Networks, tmp_path: Path) -> None:
    run(listing, tmp_path, networks)
    before = hashes(tmp_path)
    torch.manual_seed(1)
    another = build_encoder(networks.config.encoder).eval()
    with pytest.raises(
        OptionError, match=r"holds clips that were prepared otherwise \(tower .* not .*\); name another"
    ):
        run(listing, tmp_path, replace(networks, encoder=another))
    with pytest.raises(OptionError, match=r'window .*"seconds": 0.64'):
        list(prepare([listing], tmp_path, networks, 0.32))
    with pytest.raises(OptionError, match=r'tower "[0-9a-f]*" not "".*vae .* not ""'):
        run(listing, tmp_path, Networks(networks.config))
    assert hashes(tmp_path) == before


def test_training_with_other_networks_is_refused(listing: Listing, networks: Networks, tmp_path: Path) -> None:
    run(listing, tmp_path, networks)
    source = PreparedSource(tmp_path)
    assert networks.encoder is not None
    source.check_networks(tower=fingerprint(networks.encoder.tower), vae=fingerprint(networks.vae))
    source.check_networks()
    with pytest.raises(OptionError, match="was prepared with another autoencoder"):
        source.check_networks(vae="0" * 64)
    with pytest.raises(OptionError, match="was prepared with another tower"):
        source.check_networks(tower="0" * 64)


def test_an_autoencoder_of_another_form_is_refused(system: SystemConfig) -> None:
    with pytest.raises(OptionError, match="has 2 levels and 8 latent channels, the configuration says 3 and 8"):
        Networks(system, vae=build_vae(VAEConfig((8, 8), layers_per_block=1, norm_groups=4)))


def test_lists_of_one_name_and_bad_numbers_are_refused(listing: Listing, kept: Networks, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two lists are called train"):
        list(prepare([listing, listing], tmp_path / "a", kept, SECONDS))
    with pytest.raises(OptionError, match="batch is 0"):
        run(listing, tmp_path / "a", kept, batch=0)
    with pytest.raises(OptionError, match="workers is -1"):
        run(listing, tmp_path / "a", kept, workers=-1)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "is damaged or truncated"),
        (lambda path: safetensors.numpy.save_file({"wave": np.zeros(1)}, path), "holds wave, not frames, wave"),
    ],
)
def test_a_damaged_file_is_one_line(
    damage: Callable[[Path], object], reason: str, listing: Listing, kept: Networks, tmp_path: Path
) -> None:
    run(listing, tmp_path, kept)
    source = PreparedSource(tmp_path)
    damage(tmp_path / source.rows[2].file)
    with pytest.raises(SampleError, match=reason) as error:
        source.load(2)
    assert "\n" not in str(error.value)
    with pytest.raises(SampleError):
        source.frames(2)
    assert source.load(1)


def test_folders_that_hold_no_prepared_clips_are_named(listing: Listing, kept: Networks, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="name one of the lists in this folder: none"):
        PreparedSource(tmp_path)
    run(listing, tmp_path, kept)
    index, note = tmp_path / "train.jsonl", tmp_path / "prepared.json"
    index.write_text('{"name": 3}\n')
    with pytest.raises(OptionError, match=r"train\.jsonl, line 1: Expected `str`.*prepare the clips again"):
        PreparedSource(tmp_path)
    broken = {'{"version": 9}': "is of version 9, 1 is read", "[": "is not valid JSON", "[]": "Expected `object`"}
    for text, message in (broken | {'{"version": 1}': "missing required field `window`"}).items():
        note.write_text(text)
        with pytest.raises(OptionError, match=message):
            PreparedSource(tmp_path)
    note.unlink()
    with pytest.raises(OptionError, match=r"a folder written by train\.prepare is needed"):
        PreparedSource(index)

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vta_rt.bundle import Bundle, find_bundle, list_bundles
from vta_rt.errors import BundleError
from vta_rt.manifest import FORMAT_VERSION, MANIFEST


def edit_manifest(bundle: Path, **changes: Any) -> None:
    """Replace top-level fields; None removes one."""
    manifest = json.loads((bundle / MANIFEST).read_text()) | changes
    replace(
        bundle / MANIFEST, json.dumps({key: value for key, value in manifest.items() if value is not None}).encode()
    )


def replace(path: Path, content: bytes) -> None:
    """Write a new file in the place of one, whose other links keep the old content."""
    path.unlink()
    path.write_bytes(content)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    replace(path, bytes(content))


def test_an_intact_bundle_opens_and_checks(bundle_short: Path) -> None:
    bundle = Bundle(bundle_short)
    assert bundle.manifest.format_version == FORMAT_VERSION
    assert len(bundle.check()) == 9  # five graphs, four weights files


def test_the_manifest_is_plain_json(bundle_short: Path) -> None:
    manifest = json.loads((bundle_short / MANIFEST).read_text())
    frames = {"rate": 2.0, "size": 224, "fit": "crop", "clip_length": 1, "clip_stride": 1, "tokens_per_second": 2.0}
    assert manifest["frames"] == frames | {"resize": 0, "kernel": "bicubic", "encoder": "clip"}
    denoiser = {spec["name"]: spec for spec in manifest["graphs"]["denoiser"]["inputs"]}
    assert denoiser["latents"] == {"name": "latents", "shape": [1, 8, 16, 16], "dtype": "float32"}
    assert denoiser["tokens"]["shape"] == [1, "frames", 24]
    assert denoiser["token_mask"] == {"name": "token_mask", "shape": [1, "frames"], "dtype": "bool"}
    assert manifest["schedule"]["beta_start"] == 0.00085
    assert manifest["schedule"]["prediction_type"] == "v_prediction"


def test_no_path_of_the_building_machine_is_in_a_graph(bundle_short: Path) -> None:
    for path in bundle_short.glob("*.onnx"):
        assert b".py" not in path.read_bytes(), path.name


def test_both_denoisers_share_their_weights(bundle_short: Path) -> None:
    graphs = Bundle(bundle_short).manifest.graphs
    assert graphs["denoiser"].weights == graphs["denoiser_unguided"].weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "newer vta_rt"),
        ({"format_version": 0}, "format version 0 is not one that this vta_rt reads"),
        ({"format_version": "1"}, "no format_version"),
        ({"format_version": None}, "no format_version"),
        ({"graphs": {}}, "lists no graph visual_encoder, denoiser"),
        ({"source": None}, "source"),
        ({"model": {"seconds": "long"}}, "model.seconds"),
        ({"model": {"seconds": -1}}, "seconds is -1"),
        ({"model": {"seconds": 1e308}}, "seconds is 1e\\+308, at most 3600"),
        (
            {"model": {"seconds": 1.28}},
            r"latents of graph denoiser is float32 \[1, 8, 16, 16\], which is not the model's",
        ),
        ({"model": {"latent_channels": 4}}, "latents of graph denoiser"),
        ({"model": {"token_width": 2048}}, "tokens of graph visual_encoder"),
        ({"model": {"mel_bins": 80}}, "latents of graph denoiser"),
        ({"frames": {"fit": "stretch"}}, "frames.fit"),
        ({"frames": {"size": 336}}, "frames of graph visual_encoder"),
        ({"frames": {"resize": 112}}, "resize is 112, 0 or from the size 224 to 4096 is needed"),
        ({"frames": {"clip_stride": 2}}, "clip_length 1 is no multiple of frames.clip_stride 2"),
        ({"frames": {"tokens_per_second": 8.0}}, "a token for every 1 of 2 frames a second makes 2"),
        ({"schedule": {"beta_schedule": "cosine"}}, "cosine"),
        ({"sampling": {"solver": "euler"}}, "section sampling is not possible: solver is 'euler', one of ddpm"),
    ],
)
def test_a_wrong_manifest_is_named_with_the_field(bundle_copy: Path, changes: dict, message: str) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text())
    sections = {name: manifest[name] | value for name, value in changes.items() if isinstance(value, dict) and value}
    edit_manifest(bundle_copy, **(changes | sections))
    with pytest.raises(BundleError, match=message) as caught:
        Bundle(bundle_copy)
    assert MANIFEST in str(caught.value)
    assert "\n" not in str(caught.value)


def test_records_of_two_graphs_exchanged(bundle_copy: Path) -> None:
    graphs = json.loads((bundle_copy / MANIFEST).read_text())["graphs"]
    edit_manifest(
        bundle_copy, graphs=graphs | {"visual_encoder": graphs["vocoder"], "vocoder": graphs["visual_encoder"]}
    )
    with pytest.raises(BundleError, match="the inputs of graph visual_encoder are mel, not frames"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("text", [b"", b"not json", b"[" * 100_000, b"[1, 2]", b'{"format_version": 1', b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle_copy: Path, text: bytes) -> None:
    replace(bundle_copy / MANIFEST, text)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle(bundle_copy)


@pytest.mark.parametrize("file", ["denoiser.onnx", "denoiser.onnx.data", "vocoder.onnx.data"])
def test_missing_short_and_altered_files_are_named(bundle_copy: Path, file: str) -> None:
    path = bundle_copy / file
    flip_a_byte(path)
    with pytest.raises(BundleError, match=rf"{file}: its sha256"):
        Bundle(bundle_copy)
    replace(path, b"short")
    with pytest.raises(BundleError, match=rf"{file}: has 5 bytes"):
        Bundle(bundle_copy)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{file}: is missing"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda bundle: Bundle(bundle.path), "its sha256"),
        (Bundle.check, "its sha256"),
        (lambda bundle: bundle.graph_path("visual_encoder"), "has changed since the bundle was opened"),
    ],
)
def test_a_byte_altered_in_place_under_the_old_time_is_found(
    bundle_copy: Path, find: Callable[[Bundle], object], message: str
) -> None:
    path = bundle_copy / "visual_encoder.onnx.data"
    replace(path, path.read_bytes())  # a file of its own: the others are links
    bundle, before = Bundle(bundle_copy), path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    with pytest.raises(BundleError, match=rf"visual_encoder\.onnx\.data: {message}"):
        find(bundle)


def test_files_outside_the_folder_are_refused(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text())
    manifest["graphs"]["vocoder"]["graph"]["file"] = "../vocoder.onnx"
    edit_manifest(bundle_copy, graphs=manifest["graphs"])
    with pytest.raises(BundleError, match="not a file name inside the bundle"):
        Bundle(bundle_copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("./no/such/folder", "no such file or folder"),
        ("/no/such", "no such file or folder"),
        ("", r"is not a bundle, it has no bundle\.json"),
        ("notes.txt", r"notes\.txt: is a file, a bundle's folder is needed"),
    ],
)
def test_paths_that_are_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("notes")
    with pytest.raises(BundleError, match=message):
        Bundle(name or tmp_path)


def test_files_seen_before_are_not_read_again(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Bundle(bundle_copy)
    monkeypatch.setattr("vta_rt.verification.sha256_of", lambda path: pytest.fail(f"read {path} again"))
    Bundle(bundle_copy)


def test_a_cache_that_cannot_be_written_costs_time_only(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    bundle = Bundle(bundle_copy)
    assert bundle.graph_path("vocoder").is_file()
    assert not (tmp_path / "file" / "vta_rt").exists()


def test_a_user_without_a_home_folder_can_open_bundles(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert Bundle(bundle_copy).path == bundle_copy


def make_named(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / MANIFEST).write_text("{}")


def test_the_demo_is_the_default_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stays so, whatever lies in the folder."""
    monkeypatch.chdir(tmp_path)
    make_named(tmp_path / "engines", "newer", "demo")
    assert Bundle(find_bundle()).manifest.source.checkpoint
    assert (Path(find_bundle()) / MANIFEST).samefile(Path(__file__).parents[2] / "engines" / "demo" / MANIFEST)
    monkeypatch.setenv("VTA_BUNDLE", "newer")
    assert find_bundle() == Path("engines/newer")


def test_names_of_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_named(tmp_path / "engines", "one", "demo")
    make_named(tmp_path, "here")
    assert find_bundle("one") == Path("engines/one")
    assert find_bundle("here") == "here"
    assert find_bundle("engines/two") == "engines/two"
    assert find_bundle("hf:owner/name") == "hf:owner/name"
    assert list_bundles()["one"] == [Path("engines/one")]
    with pytest.raises(
        BundleError, match=r"demo: is the name of several bundles, engines/demo, .*; give the path of one"
    ):
        find_bundle("demo")
    with pytest.raises(BundleError, match=r"two: no such folder, and no bundle of that name; here are demo, one"):
        find_bundle("two")
    with pytest.raises(BundleError, match=r"dmo: no such folder, and no bundle of that name; the nearest is demo$"):
        find_bundle("dmo")
    with pytest.raises(BundleError, match=r"engines/onne: no such file or folder; the nearest is one in engines$"):
        find_bundle("engines/onne")


def test_only_hf_asks_the_model_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(BundleError, match="someone/demo: no such file or folder; hf:someone/demo would fetch it"):
        Bundle("someone/demo")
    with pytest.raises(BundleError, match="hf:demo: is no name on the model hub, hf:owner/name is needed"):
        Bundle("hf:demo")


def test_a_hub_id_is_found_in_the_local_cache(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--someone--demo"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    (repository / "snapshots").mkdir()
    bundle_copy.rename(repository / "snapshots" / "abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert Bundle("hf:someone/demo").path.name == "abc123"
    with pytest.raises(BundleError, match="hf:someone/else: is not available from the model hub"):
        Bundle("hf:someone/else")

"""Shared by all tests: the published facts, checkpoints and bundles built once per run, and the option ``--slow``."""

from __future__ import annotations

import os

# Tests run in one process per core, so each computes on one thread. numpy and torch look when they are imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
# The processes that tests start find export and train, which are not installed, and vta_rt in the same checkout.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(__file__))

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

UPSTREAM = Path(__file__).parent / "upstream"
SAMPLE_VIDEOS = Path(__file__).parents[2] / "shared" / "videos"


Share = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the slowest proofs, those marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference, in float64."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, f"{value.shape} is not {reference.shape}"
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@pytest.fixture(scope="session")
def goldens() -> dict[str, np.ndarray]:
    """Reference outputs of the published implementation on made-up weights, all arrays by name."""
    return {
        name: array
        for stem in ("diffusion", "first_stage")
        for name, array in np.load(UPSTREAM / "goldens" / f"{stem}.npz").items()
    }


@pytest.fixture(scope="session")
def golden_frames(goldens: dict[str, np.ndarray]) -> np.ndarray:
    """The frames of all conditioning goldens, [20, 224, 224, 3] uint8."""
    return goldens["frames_u8_low"].repeat(28, axis=2).repeat(28, axis=3).transpose(0, 2, 3, 1).copy()


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """``share(name, build)`` calls ``build(folder)`` once per run, whichever process asks first, and returns the folder."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all the run's processes

    def share(name: str, build: Callable[[Path], object]) -> Path:
        folder, is_built = root / "shared" / name, root / "shared" / f"{name}.built"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(root / "shared" / f"{name}.lock"):
            if not is_built.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a build that failed
                build(folder)
                is_built.touch()
        return folder

    return share


@pytest.fixture(scope="session")
def tiny_checkpoint(share: Share) -> Path:
    """A folder as ``synth_checkpoint.py tiny`` writes it: the model's folder and audioldm-s-full.ckpt."""
    script = [sys.executable, UPSTREAM / "synth_checkpoint.py", "tiny"]
    return share("tiny-checkpoint", lambda out: subprocess.run([*script, out], check=True, capture_output=True))


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the note of verified files out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("VTA_BUNDLE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """ONNX Runtime takes no environment variable: unless a test says otherwise, its sessions compute on one thread."""
    import onnxruntime

    class SessionOptions(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", SessionOptions)
        yield


@pytest.fixture(scope="session")
def bundle_short(micro_checkpoint: Path, share: Share) -> Path:
    """The micro checkpoint at fp32 with windows of 0.64 s: quick to build and to run."""
    from export.bundling import Options, build

    return share("bundle-short", lambda out: build(micro_checkpoint, out=out, options=Options(seconds=0.64)))


@pytest.fixture(scope="session")
def bundle_10s(micro_checkpoint: Path, bundle_short: Path, share: Share) -> Path:
    """The same with windows of 10.24 s, as published. Starts from the other, so only the denoiser is built again."""
    from export.bundling import build

    def lengthen(out: Path) -> None:
        link_tree(bundle_short, out)
        build(micro_checkpoint, out=out)

    return share("bundle-10s", lengthen)


@pytest.fixture(scope="session")
def text_checkpoint(micro_checkpoint: Path, share: Share) -> Path:
    """The micro checkpoint with a text encoder and a tokenizer."""
    from tests.prompts import with_text

    return share("text-checkpoint", lambda out: with_text(micro_checkpoint, out))


@pytest.fixture(scope="session")
def bundle_text(text_checkpoint: Path, bundle_short: Path, share: Share) -> Path:
    """As ``bundle_short``, of the checkpoint that takes prompts."""
    from export.bundling import Options, build

    def export(out: Path) -> None:
        link_tree(bundle_short, out)  # so that only what is another graph is built
        build(text_checkpoint, out=out, options=Options(seconds=0.64))

    return share("bundle-text", export)


@pytest.fixture
def bundle_copy(bundle_short: Path, tmp_path: Path) -> Path:
    """A bundle a test may damage: replace its files, never write into them (they are hard links)."""
    link_tree(bundle_short, tmp_path / "bundle")
    return tmp_path / "bundle"


def link_tree(source: Path, target: Path) -> None:
    """A copy of a folder of files that costs nothing."""
    shutil.copytree(source, target, copy_function=os.link)


@pytest.fixture(scope="session")
def micro_checkpoint(share: Share) -> Path:
    """A checkpoint far smaller than any published, to build in seconds: config.json, safetensors, diffusers folder."""
    return share("micro-checkpoint", save_micro_checkpoint)


def save_micro_checkpoint(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from train.models.config import CLIPConfig, SystemConfig, UNetConfig, VAEConfig, VocoderConfig, to_dict
    from train.models.encoder import build_encoder
    from train.models.unet import build_unet
    from train.models.vae import build_vae
    from train.models.vocoder import build_vocoder

    config = SystemConfig(
        encoder=CLIPConfig(32, 1, 2, 64, 112, projection=16, tokens_dim=24),
        unet=UNetConfig((16, 32), (2, 2), 24, layers_per_block=1, norm_groups=8),
        vae=VAEConfig((8, 16, 16), layers_per_block=1, norm_groups=8),
        vocoder=VocoderConfig(initial_channels=32),
        licence="of a test: non-commercial",
    )
    torch.manual_seed(0)
    build_vae(config.vae).save_pretrained(folder / "vae")
    vocoder = build_vocoder(config.vocoder)
    for parameter in vocoder.parameters():
        if parameter.ndim > 1:  # fresh weights are so small that the wave would vanish in half precision
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    vocoder.save_pretrained(folder / "vocoder")
    parts = {"unet.": build_unet(config.unet), "vid_fea_extractor.": build_encoder(config.encoder)}
    tensors = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    save_file(tensors, folder / "model_2.safetensors")
    (folder / "config.json").write_text(json.dumps(to_dict(config)))

"""The tiny checkpoint's torch modules, opened once; clips and settings for a training that takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from export.bundling import Checkpoint, open_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def new_accelerator() -> Iterator[None]:
    """Accelerate keeps its state for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def prepared_clips(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared clips of 0.64 s with random values: 20 in train.jsonl, 6 in valid.jsonl; some have a description.

    As if the micro checkpoint's tower and autoencoder had made them.
    """
    import numpy as np

    from train.data.networks import open_encoder
    from train.data.prepared import IndexRow, PreparedRecipe, claim_folder, write_clip, write_index
    from train.data.sample import Window
    from train.first_stage.publish import open_vae
    from train.models.weights import fingerprint
    from train.settings import read_model

    folder = tmp_path_factory.mktemp("clips")
    encoder = read_model(micro_checkpoint / "config.json").encoder
    tower = fingerprint(open_encoder(micro_checkpoint / "model_2.safetensors", encoder).tower)
    vae = fingerprint(open_vae(micro_checkpoint))
    claim_folder(folder, PreparedRecipe(Window(0.64, 12.5, 224, 16000), tower=tower, vae=vae, mel={}))
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("valid", 6)):
        rows = []
        for index in range(count):
            file, frames = f"clips/{split}{index}.safetensors", 8 if index % 3 else 5  # some clips are short
            moments = generator.standard_normal((16, 16, 16), dtype=np.float32)
            embeddings = generator.standard_normal((frames, 16), dtype=np.float32)
            write_clip(folder, file, {"embeddings": embeddings, "moments": moments})
            rows.append(IndexRow(f"{split} {index}", file, "a bell" if index % 2 else "", frames))
        write_index(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def micro_settings(prepared_clips: Path) -> dict[str, Any]:
    """Settings of a training that takes seconds, on ``prepared_clips``; ``out`` is missing."""
    return {
        "data": {
            "train": str(prepared_clips / "train.jsonl"),
            "valid": str(prepared_clips / "valid.jsonl"),
            "seconds": 0.64,
            "workers": 0,
        },
        "model": {
            "frame_rate": 12.5,
            "encoder": {
                "kind": "clip",
                "width": 32,
                "layers": 1,
                "heads": 2,
                "intermediate": 64,
                "patch": 112,
                "projection": 16,
                "tokens_dim": 24,
            },
            "unet": {
                "block_out_channels": [16, 32],
                "attention_heads": [2, 2],
                "cross_attention_dim": 24,
                "layers_per_block": 1,
                "norm_groups": 8,
            },
            "vae": {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_groups": 8},
            "vocoder": {"initial_channels": 32},
        },
        "optimizer": {"learning_rate": 1e-3, "warmup": 2, "ema": 0.9},
        "length": {"steps": 12, "batch": 8, "micro_batch": 2},
        "checkpoints": {"every": 4, "validate_every": 4},
        "machine": {"device": "cpu"},
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set of ten clips of a second: eight to train on, one to validate, one to test. Not to be written to."""
    from train.demo.synthetic.dataset import WorldRecipe, write_dataset

    folder = tmp_path_factory.mktemp("world")
    list(write_dataset(folder, WorldRecipe(seed=5, seconds=1.0), 10))
    return folder


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Writes a video of 25 frames a second; frame n is of the grey level 16 + 8 n, or as ``draw`` gives it."""
    import av
    import numpy as np

    def write(
        path: Path,
        seconds: float = 0.64,
        size: int = 32,
        sound: np.ndarray | None = None,
        draw: Callable[[int], np.ndarray] | None = None,
    ) -> Path:
        draw = draw or (lambda index: np.full((size, size, 3), 16 + 8 * index % 224, np.uint8))
        with av.open(str(path), "w") as sink:
            stream = sink.add_stream("libx264", rate=25, options={"preset": "ultrafast", "qp": "0"})
            stream.height, stream.width = draw(0).shape[:2]
            stream.pix_fmt = "yuv420p"
            track = None if sound is None else sink.add_stream("aac", rate=16000, layout="mono")
            for index in range(round(seconds * 25)):
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(draw(index), format="rgb24")))
            sink.mux(stream.encode(None))
            if track is not None:
                frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
                sink.mux(track.encode(frame))
                sink.mux(track.encode(None))
        return path

    return write

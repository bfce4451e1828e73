"""Clips per second that reach training, and how long a device waits for them: video files against prepared clips.

    python benchmarks/data_pipeline.py --clips 64 --workers 2

Generates clips (``train.demo.synthetic``), prepares them with networks of the demo model's size and made-up weights, and reads
each form through the training loader, twice: as fast as it gives them, and with a stand-in for the device, a pause of
``--step`` seconds per batch during which the processor is free, as it is while a GPU computes. All files are in the page
cache. The stand-in takes equally long for all forms, though a device that is given decoded or stored frames has the frame
encoder (and the autoencoder) to run as well. The generated videos are small; a camera's take longer to read.

Prints a table and writes benchmarks/results/data_pipeline.json.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import machine
import torch

from train.data.lists import read_list
from train.data.loader import Loader, LoadReport
from train.data.prepare import Networks, prepare
from train.data.prepared import PreparedSource
from train.data.raw import RawSource
from train.data.sample import ClipSource, Window
from train.demo.synthetic.dataset import WorldRecipe, write_dataset
from train.models.config import MotionConfig, SystemConfig, UNetConfig, VAEConfig
from train.models.encoder import build_encoder
from train.models.vae import build_vae

SYSTEM = SystemConfig(
    encoder=MotionConfig(),
    unet=UNetConfig((64, 128, 128), (2, 4, 4), 256, layers_per_block=1, norm_groups=16),
    vae=VAEConfig((32, 64, 96), layers_per_block=1, norm_groups=16),
    frame_rate=25.0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=64, help="how many to generate")
    parser.add_argument("--seconds", type=float, default=5.12, help="length of each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="processes that read ahead")
    parser.add_argument(
        "--step", type=float, default=0.2, help="seconds that the stand-in for a device takes per batch"
    )
    parser.add_argument("--time", type=float, default=10.0, help="seconds to measure each row for, twice")
    parser.add_argument("--name", default="data_pipeline", help="of the file in benchmarks/results")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        forms = _forms(Path(folder), options)
        rows = {}
        print(f"{'form':<32}{'MB a clip':>10}{'clips/s':>10}{'waiting, with a device':>24}")
        for form, (source, size) in forms.items():
            fastest = _measure(source, options, step=0.0)
            paced = _measure(source, options, step=options.step)
            rows[form] = {
                "mb_a_clip": round(size / len(source) / 1e6, 3),
                "clips_per_second": round(_rate(fastest, options.batch), 1),
                "with_device": {
                    "clips_per_second": round(_rate(paced, options.batch), 1),
                    "waiting_share": round(paced.waiting_share, 4),
                    "startup_s": round(paced.startup, 2),
                },
            }
            waiting = f"{paced.waiting_share:.1%}"
            print(f"{form:<32}{rows[form]['mb_a_clip']:>10}{rows[form]['clips_per_second']:>10}{waiting:>24}")
    settings = {name: getattr(options, name) for name in ("clips", "seconds", "batch", "workers", "step")}
    frame = {"frames": forms_window(options).frames, "size": SYSTEM.frame_size}
    print(machine.write(options.name, {"settings": settings | frame, "forms": rows}))


def forms_window(options: argparse.Namespace) -> Window:
    """Return the window that is read from each clip."""
    return Window.of(SYSTEM, options.seconds)


def _forms(folder: Path, options: argparse.Namespace) -> dict[str, tuple[ClipSource, int]]:
    """Return each form of the same clips, and its size in bytes."""
    world = folder / "world"
    list(write_dataset(world, WorldRecipe(seed=0, seconds=options.seconds), options.clips, max(1, options.workers)))
    lines = "".join((world / f"{split}.jsonl").read_text() for split in ("train", "valid", "test"))
    (world / "all.jsonl").write_text(lines)
    listing = read_list(world / "all.jsonl")
    torch.manual_seed(0)
    encoder = build_encoder(SYSTEM.encoder).eval().requires_grad_(False)
    vae = build_vae(SYSTEM.vae).eval().requires_grad_(False)
    forms: dict[str, tuple[ClipSource, int]] = {
        "video and sound files": (RawSource(listing, forms_window(options)), _size(world / "video", world / "audio"))
    }
    for form, networks in {
        "prepared: frames, samples": Networks(SYSTEM),
        "prepared: frames, latents": Networks(SYSTEM, vae=vae),
        "prepared: embeddings, latents": Networks(SYSTEM, encoder, vae),
    }.items():
        out = folder / form.replace(" ", "")
        with _print_rate(form, options.clips):
            list(prepare([listing], out, networks, options.seconds, workers=options.workers))
        forms[form] = (PreparedSource(out), _size(out / "clips"))
    return forms


@contextlib.contextmanager
def _print_rate(what: str, clips: int) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{what}: made at {clips / (time.perf_counter() - start):.1f} clips/s")


def _size(*folders: Path) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir())


def _measure(source: ClipSource, options: argparse.Namespace, step: float) -> LoadReport:
    loader = Loader(source, batch=min(options.batch, len(source)), workers=options.workers)
    with closing(loader.steps()) as steps:
        for _ in steps:
            time.sleep(step)
            if loader.report.elapsed > options.time:
                return loader.report
    raise RuntimeError("steps never end")


def _rate(report: LoadReport, batch: int) -> float:
    """Clips a second after the first batch."""
    return (report.samples - batch) / report.elapsed


if __name__ == "__main__":
    main()

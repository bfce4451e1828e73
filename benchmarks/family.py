"""The family at tiny size: every variant trained alike on the generated world, exported, timed and heard.

    python -m train.synthetic runs/world --clips 400 --seconds 5.12
    python -m train.first_stage vae … && python -m train.first_stage vocoder …      # README, "Training"
    python benchmarks/family.py --world runs/world --first-stage runs/first --video clip.mp4 --work runs/family
    python benchmarks/family.py --full-size        # sizes, operations and tokens of the published encoders; no weights

Each variant has the same clips, denoiser, seed and number of steps. Its tower is random and frozen, for want of public
weights of that size: what is compared is what an encoder's form lets through (space, order, motion), not what it has
learned. Prints a table and writes benchmarks/results/family.json; variants that are in the file already are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np

SECONDS = 5.12
AVERAGED = 20  # steps at the beginning and the end of a run whose loss is averaged
UNET = {
    "block_out_channels": [32, 64],
    "attention_heads": [2, 4],
    "cross_attention_dim": 64,
    "layers_per_block": 1,
    "norm_groups": 8,
    "attention": [False, True],
}
SMALL = {"width": 64, "layers": 2, "heads": 4, "tokens_dim": 64}
SIZE = {"image_size": 64, "resize": 73}


@dataclass(frozen=True)
class Variant:
    """A row of the table. encoder: of the model's configuration. settings: of ``train.run``, over those all share."""

    name: str
    encoder: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)


CLIP = {"kind": "clip", **SMALL, "intermediate": 128, "patch": 16, "projection": 64, "image_size": 64}
VARIANTS = (
    Variant("base (CLIP)", CLIP),
    Variant("+PE", CLIP | {"positions": True}),
    Variant("ImageBind", {"kind": "imagebind", **SMALL, "projection": 64, "patch": 16, **SIZE}),
    Variant(
        "LanguageBind", {"kind": "languagebind", **SMALL, "intermediate": 128, "projection": 64, "patch": 16, **SIZE}
    ),
    Variant("CAVP", {"kind": "cavp", "width": 8, "projection": 64, "tokens_dim": 64, "image_size": 64}),
    Variant("ViViT", {"kind": "vivit", **SMALL, "intermediate": 128, "projection": 64, **SIZE}),
    Variant("V-JEPA 2", {"kind": "vjepa2", **SMALL, "intermediate": 256, "projection": 64, **SIZE}),
)


def main() -> None:
    options = _parser().parse_args()
    path = machine.RESULTS / "family.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    result = {"full_size": known.get("full_size", []), "about": known.get("about", {}), "tiny": known.get("tiny", {})}
    if options.full_size:
        result["full_size"] = full_size()
        machine.write("family", result)
    else:
        about = {name: getattr(options, name) for name in ("steps", "batch", "clips", "test_clips", "seed")}
        if about != result["about"]:
            result |= {"about": about, "tiny": {}}
        for variant in VARIANTS:
            if variant.name not in result["tiny"] and (not options.variants or variant.name in options.variants):
                result["tiny"][variant.name] = measured(variant, options)
                machine.write("family", result)
    _print(result)


def full_size() -> list[dict[str, Any]]:
    """Parameters, tokens and operations of every encoder at its published size for 10 s; nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from train.encoder import build_encoder
    from train.encoder_config import ENCODERS

    rows = []
    for kind, config in ENCODERS.items():
        with torch.device("meta"):
            encoder = build_encoder(config()).eval()
            frames = torch.zeros(int(10 * config.rate), *(config().image_size,) * 2, 3, dtype=torch.uint8)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            embeddings = encoder.embed(frames)
        parameters = sum(parameter.numel() for parameter in encoder.tower.parameters())
        rows.append(
            {
                "encoder": kind,
                "parameters": parameters,
                "operations": counter.get_total_flops(),
                "tokens": list(embeddings.shape),
            }
        )
    return rows


def measured(variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Train, export, time, generate and score one variant."""
    from vta_rt.pipeline import Pipeline

    work = Path(options.work) / "".join(letter for letter in variant.name.lower() if letter.isalnum())
    bundle = trained(variant, work, options)
    pipeline = Pipeline(bundle, threads=2)
    frames, model = pipeline.frames, pipeline.model
    count = model.frame_count(frames)
    pictures = np.random.default_rng(0).integers(0, 256, (count, frames.size, frames.size, 3), np.uint8)
    audio = pipeline.generate(options.video, steps=10)
    audio.save(work / "sample.wav")
    losses = [
        json.loads(line)["loss"] for line in (work / "run/metrics.jsonl").read_text().splitlines() if '"loss"' in line
    ]
    return {
        "parameters": _parameters(work / "run/last/model_2.safetensors"),
        "operations": round(pipeline.bundle.manifest.graphs["visual_encoder"].operations * 10 / model.seconds),
        "encode_s": _median(lambda: pipeline.encode(pictures)) * 10 / model.seconds,
        "tokens_per_second": frames.tokens_per_second,
        "loss_first": statistics.mean(losses[:AVERAGED]),
        "loss_last": statistics.mean(losses[-AVERAGED:]),
        "generated_s": audio.duration,
        "generated_rms": float(np.sqrt(np.mean(audio.samples**2))),
        **scored(bundle, work, options),
    }


def trained(variant: Variant, work: Path, options: argparse.Namespace) -> Path:
    """The bundle of a variant, by the commands a person would use."""
    import torch
    from safetensors.torch import save_file

    import export.build
    import train.prepare
    import train.run
    from train.encoder import build_encoder
    from train.settings import read_model

    first, world = Path(options.first_stage), Path(options.world)
    work.mkdir(parents=True, exist_ok=True)
    recipe = work / "recipe.toml"
    recipe.write_text(_toml(_settings(variant, first, options)))
    torch.manual_seed(options.seed)
    tower = build_encoder(read_model(recipe).encoder).tower
    save_file({name: value.contiguous() for name, value in tower.state_dict().items()}, work / "tower.safetensors")

    clips = work / "clips"
    lists = [_shortened(world / "train.jsonl", work, options.clips)]
    prepare = [
        *map(str, lists),
        "--out",
        str(clips),
        "--config",
        str(recipe),
        "--encoder",
        str(work / "tower.safetensors"),
    ]
    _must(train.prepare.main, [*prepare, "--first-stage", str(first), "--seconds", str(SECONDS), "--workers", "1"])
    if not (work / "run/last").exists():
        start = [f"start.tower={work / 'tower.safetensors'}", f"start.first_stage={first}"]
        data = f"data.train={clips / 'train.jsonl'}"
        _must(train.run.main, ["--config", str(recipe), f"out={work / 'run'}", data, *start])
    ckpt = ["--ckpt", str(work / "run/last"), "--first-stage", str(first)]
    _must(export.build.main, [*ckpt, "--out", str(work / "bundle"), "--seconds", str(SECONDS)])
    return work / "bundle"


def scored(bundle: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Onset F1 of generated clips that nothing was trained on, and of the same with the frames in another order."""
    if not options.test_clips:
        return {}
    import train.evaluate.__main__ as evaluate

    out = work / "report"
    command = ["--bundle", str(bundle), "--data", options.world, "--clips", str(options.test_clips), "--steps", "10"]
    _must(evaluate.main, [*command, "--controls", "--pictures", "0", "--out", str(out)])
    return {"scores": json.loads(next(out.glob("*.json")).read_text())}


def _settings(variant: Variant, first: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = json.loads((first / "config.json").read_text())
    model = {name: section for name, section in model.items() if name in ("vae", "vocoder", "mel")}
    settings: dict[str, Any] = {
        "seed": options.seed,
        "model": model | {"encoder": variant.encoder, "unet": UNET},
        "data": {"seconds": SECONDS, "workers": 0},
        "loss": {"weighting": "noise"},
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 20, "clip": 1.0},
        "length": {"steps": options.steps, "batch": options.batch, "micro_batch": options.batch},
        "checkpoints": {"every": options.steps},
        "machine": {"device": "cpu", "mixed_precision": "no"},
    }
    for section, values in variant.settings.items():
        settings[section] = settings.get(section, {}) | values
    return settings


def _toml(values: dict[str, Any], prefix: str = "") -> str:
    """Nested dicts as TOML; JSON's numbers, texts and lists are TOML's too."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    text = "\n".join([*([f"[{prefix}]"] if prefix else []), *plain]) + "\n\n"
    for key, value in values.items():
        if isinstance(value, dict):
            text += _toml(value, f"{prefix}.{key}" if prefix else key)
    return text


def _shortened(path: Path, work: Path, clips: int) -> Path:
    """A list of the first so many clips, with absolute paths."""
    rows = []
    for line in path.read_text().splitlines()[:clips]:
        row = json.loads(line)
        rows.append(
            row | {key: str((path.parent / row[key]).resolve()) for key in ("video_path", "audio_file") if row.get(key)}
        )
    (work / path.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return work / path.name


def _parameters(weights: Path) -> int:
    from safetensors import safe_open

    with safe_open(weights, "numpy") as file:
        names = [name for name in file.keys() if name.startswith("vid_fea_extractor.")]  # noqa: SIM118 - no mapping
        return int(sum(np.prod(file.get_slice(name).get_shape()) for name in names))


def _median(call: Callable[[], Any], repeats: int = 5) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _must(command: Callable[[list[str]], int], arguments: list[str]) -> None:
    if code := command(arguments):
        raise SystemExit(code)


def _print(result: dict[str, Any]) -> None:
    if result["full_size"]:
        print("| encoder, full size | M parameters | TFLOP for 10 s | tokens |\n|---|---|---|---|")
        for row in result["full_size"]:
            size, work = row["parameters"] / 1e6, row["operations"] / 1e12
            print(f"| {row['encoder']} | {size:.1f} | {work:.3g} | {row['tokens'][0]} x {row['tokens'][1]} |")
    if result["tiny"]:
        print("| variant, tiny | parameters | GFLOP for 10 s | encode 10 s, 2 threads | tokens a second | loss |")
        print("|---|---|---|---|---|---|")
        for name, row in result["tiny"].items():
            loss = f"{row['loss_first']:.3f} to {row['loss_last']:.3f}"
            cost = f"{row['operations'] / 1e9:.2f} | {1000 * row['encode_s']:.0f} ms"
            print(f"| {name} | {row['parameters']:,} | {cost} | {row['tokens_per_second']:g} | {loss} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The family of encoders at tiny size: trained, exported, timed.")
    parser.add_argument("--full-size", action="store_true", help="sizes and operations of the published encoders alone")
    parser.add_argument("--world", metavar="DIR", help="a data set that python -m train.synthetic has written")
    parser.add_argument("--first-stage", metavar="DIR", help="vae/, vocoder/ and config.json of train.first_stage")
    parser.add_argument("--video", metavar="FILE", help="a real video, which each variant makes a sound for")
    parser.add_argument(
        "--work", default="runs/family", metavar="DIR", help="folder of the runs (default: runs/family)"
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="some of the rows alone")
    parser.add_argument("--steps", type=int, default=300, help="of training (default: 300)")
    parser.add_argument("--batch", type=int, default=8, help="clips a step (default: 8)")
    parser.add_argument("--clips", type=int, default=64, help="to train on (default: 64)")
    parser.add_argument("--test-clips", type=int, default=0, help="to score; 0: none (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()

"""The family at tiny size: every variant trained alike on the generated world, exported, timed, heard and scored.

    python -m train.demo.synthetic runs/world --clips 400 --seconds 5.12
    python -m train.first_stage vae … && python -m train.first_stage vocoder …      # README, "Training"
    python benchmarks/family.py --world runs/world --first-stage runs/first --video clip.mp4 --work runs/family
    python benchmarks/family.py --full-size        # sizes, operations and tokens of the published encoders; no weights

Each variant has the same clips, denoiser, seed and number of steps; the pretrained one has as many steps of prompts alone
before. Towers, of text too, are random and frozen, for want of public weights of that size: what is compared is what an
encoder's form lets through (space, order, motion), not what it has learned. Prints a table and writes
benchmarks/results/family.json; variants that are in the file already are kept, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import numpy as np

from vta_rt.sampling import Sampling

if TYPE_CHECKING:
    from train.demo.evaluate.clips import Clip
    from train.demo.evaluate.judge import Judge
    from vta_rt.pipeline import Pipeline

SECONDS = 5.12
AVERAGED = 20  # steps at the beginning and the end of a run whose loss is averaged
SAMPLING = Sampling(steps=10, solver="dpmpp_2m", guidance=3.0)
JUDGE_CLIPS = 100
SCORES = ("f1_100", "f1_50", "kind", "kind_of_all", "events", "mel_decibels")
UNET = {
    "block_out_channels": [8, 16, 32],
    "attention_heads": [1, 2, 2],
    "cross_attention_dim": 64,
    "layers_per_block": 1,
    "norm_groups": 8,
    "attention": [False, False, True],
}
SMALL = {"width": 64, "layers": 2, "heads": 4, "tokens_dim": 64}
SIZE = {"image_size": 64, "resize": 73}
TEXT = {"width": 64, "layers": 2, "heads": 4, "intermediate": 128, "projection": 64, "vocabulary": 64, "context": 32}


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    encoder: of the model's configuration. mode: of conditioning. concat: share of clips joined with another.
    pretrained: first trained on prompts alone, for as many steps.
    """

    name: str
    encoder: dict[str, Any]
    mode: str = "video"
    concat: float = 0.0
    pretrained: bool = False


CLIP = {"kind": "clip", **SMALL, "intermediate": 128, "patch": 16, "projection": 64, "image_size": 64}
VARIANTS = (
    Variant("base (CLIP)", CLIP),
    Variant("+PE", CLIP | {"positions": True}),
    Variant("+text", CLIP, "joint"),
    Variant("+text+concat", CLIP, "joint", concat=0.5),
    Variant("+pretrain+text+concat", CLIP, "joint", concat=0.5, pretrained=True),
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
    result = {name: known.get(name, {}) for name in ("full_size", "about", "true_sound", "tiny")}
    if options.full_size:
        result["full_size"] = full_size()
        machine.write("family", result)
    else:
        if missing := [name for name in ("world", "first_stage", "video") if getattr(options, name) is None]:
            raise SystemExit(f"give --{missing[0].replace('_', '-')}, or --full-size")
        about = {name: getattr(options, name) for name in ("steps", "batch", "clips", "test_clips", "seed")}
        about |= {"seconds": SECONDS, "sampling": asdict(SAMPLING), "unet": UNET}
        if about != result["about"]:
            result |= {"about": about, "true_sound": {}, "tiny": {}}
        chosen = [each for each in VARIANTS if not options.variants or each.name in options.variants]
        for variant in chosen:
            if variant.name not in result["tiny"]:
                result["tiny"][variant.name] = measured(variant, options)
                machine.write("family", result)
        if options.test_clips:
            from train.demo.evaluate.systems import truth

            result["true_sound"] = scored(truth, options)
        for name, seconds in timed({each.name: _folder(each, options) / "bundle" for each in chosen}).items():
            result["tiny"][name]["encode_s"] = seconds
        result["tiny"] = {each.name: result["tiny"][each.name] for each in VARIANTS if each.name in result["tiny"]}
        machine.write("family", result)
    _print(result)


def full_size() -> list[dict[str, Any]]:
    """Parameters, tokens and operations of every encoder at its published size for 10 s; nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from train.models.encoder import build_encoder
    from train.models.encoder_config import ENCODERS

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
    """Train, export, generate and score one variant."""
    from train.demo.evaluate.systems import Generated
    from train.model import TEXT as TEXT_TOWER
    from vta_rt.pipeline import Pipeline

    folder = trained(variant, options)
    pipeline = Pipeline(folder / "bundle", threads=2)
    sizes = _parameters(folder / "run/last/model_2.safetensors")
    operations = pipeline.bundle.manifest.graphs["visual_encoder"].operations
    row: dict[str, Any] = {
        "parameters": sum(size for name, size in sizes.items() if name not in ("linear_layer", TEXT_TOWER)),
        "text_parameters": sizes.get(TEXT_TOWER, 0),
        "operations": operations and round(operations * 10 / pipeline.model.seconds),
        "tokens_per_second": pipeline.frames.tokens_per_second,
        "loss": _losses(folder / "run"),
        "generated": heard(folder, options, prompt=None),
    }
    if variant.mode != "video":
        row["generated_with_text"] = heard(folder, options, prompt=_prompt(options))
    if variant.pretrained:
        row["loss_of_prompts_alone"] = _losses(folder / "prompts")
    if options.test_clips:
        row["scores"] = scored(Generated(pipeline, SAMPLING, options.seed), options)
    return row


def trained(variant: Variant, options: argparse.Namespace) -> Path:
    """The folder with the bundle of a variant, by the commands a person would use."""
    import export.build
    import train.run
    import train.tokenizer

    folder, first = _folder(variant, options), Path(options.first_stage)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.toml"
    recipe.write_text(toml(settings(variant, json.loads((first / "config.json").read_text()), options)))
    shared = prepared(variant, recipe, options)
    common = ["--config", str(recipe), f"data.train={shared / 'clips/train.jsonl'}", f"start.first_stage={first}"]
    common += [f"start.tower={shared / 'tower.safetensors'}"]
    if variant.mode != "video":
        tokenizer = folder / "tokenizer.json"
        _must(train.tokenizer.main, [str(Path(options.world) / "train.jsonl"), "--out", str(tokenizer)])
        common += [f"conditioning.tokenizer={tokenizer}"]

    def run(name: str, *more: str) -> Path:
        if not (folder / name / "last").exists():
            _must(train.run.main, [*common, f"out={folder / name}", *more])
        return folder / name / "last"

    start = [f"start.checkpoint={run('prompts', 'conditioning.mode=text')}"] if variant.pretrained else []
    ckpt = ["--ckpt", str(run("run", *start)), "--first-stage", str(first)]
    other = next(Path(options.work).glob("*/bundle"), None)
    if other and not (folder / "bundle").exists():
        shutil.copytree(
            other, folder / "bundle"
        )  # the build keeps the graphs whose weights are the same: the first stage's
    _must(export.build.main, [*ckpt, "--out", str(folder / "bundle"), "--seconds", str(SECONDS)])
    return folder


def prepared(variant: Variant, recipe: Path, options: argparse.Namespace) -> Path:
    """The folder of a kind of encoder: a random tower, and the clips put through it. Made once a kind."""
    import torch
    from safetensors.torch import save_file

    import train.prepare
    from train.models.encoder import build_encoder
    from train.settings import read_model

    shared = Path(options.work) / "towers" / variant.encoder["kind"]
    shared.mkdir(parents=True, exist_ok=True)
    tower = shared / "tower.safetensors"
    torch.manual_seed(options.seed)
    state = build_encoder(read_model(recipe).encoder).tower.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tower)
    clips = _shortened(Path(options.world) / "train.jsonl", shared, options.clips)
    networks = ["--config", str(recipe), "--encoder", str(tower), "--first-stage", options.first_stage]
    length = ["--seconds", str(SECONDS), "--workers", "1"]
    _must(train.prepare.main, [str(clips), "--out", str(shared / "clips"), *networks, *length])
    return shared


def heard(folder: Path, options: argparse.Namespace, prompt: str | None) -> dict[str, float]:
    """``vta generate`` on the real video: how long and how loud its sound is."""
    import vta_rt.cli
    from train.data.audio import read_audio
    from train.demo.synthetic.sound import SAMPLE_RATE

    out = folder / ("sample.wav" if prompt is None else "sample_text.wav")
    command = ["generate", options.video, "-o", str(out), "--bundle", str(folder / "bundle")]
    command += ["--steps", str(SAMPLING.steps), "--threads", "2"]
    _must(vta_rt.cli.main, command if prompt is None else [*command, "--text", prompt])
    wave = read_audio(out, SAMPLE_RATE)
    return {"seconds": len(wave) / SAMPLE_RATE, "rms": float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))}


def scored(system: Callable[[Clip], np.ndarray | None], options: argparse.Namespace) -> dict[str, Any]:
    """Scores of the sounds for clips that nothing was trained on, and of the same sounds against other clips' events."""
    from train.demo.evaluate.score import pool, score_clip
    from train.demo.evaluate.systems import OtherClips, Remembered

    clips, judge = _test(options.world, options.test_clips)
    sounds = Remembered(system)
    others = OtherClips(sounds, clips)

    def pooled(sound: Callable[[Clip], np.ndarray | None]) -> dict[str, Any]:
        pairs = [(wave, clip) for clip in clips if (wave := sound(clip)) is not None]
        return asdict(pool([score_clip(wave, clip, judge) for wave, clip in pairs]))

    return {name: pooled(sounds)[name] for name in SCORES} | {"others_f1_100": pooled(others)["f1_100"]}


@cache
def _test(world: str, count: int) -> tuple[list[Clip], Judge]:
    from train.demo.evaluate.clips import read_clips
    from train.demo.evaluate.score import fit_judge

    return read_clips(Path(world), "test", count), fit_judge(read_clips(Path(world), "train", most=JUDGE_CLIPS))


def timed(bundles: dict[str, Path], rounds: int = 9) -> dict[str, float]:
    """Seconds to encode 10 s of video with two threads, the fastest of some rounds in which each has its turn."""
    from vta_rt.pipeline import Pipeline

    pipelines = {name: Pipeline(bundle, threads=2) for name, bundle in bundles.items()}
    pictures = {name: _pictures(pipeline) for name, pipeline in pipelines.items()}
    times: dict[str, list[float]] = {name: [] for name in bundles}
    for _ in range(rounds + 1):
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            pipeline.encode(pictures[name])
            times[name].append((time.perf_counter() - start) * 10 / pipeline.model.seconds)
    return {name: min(each[1:]) for name, each in times.items()}  # the first warms up


def _pictures(pipeline: Pipeline) -> np.ndarray:
    frames = pipeline.frames
    shape = (pipeline.model.frame_count(frames), frames.size, frames.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def settings(variant: Variant, first_stage: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What ``train.run`` is told of a variant; first_stage: the config.json of it."""
    model = {name: section for name, section in first_stage.items() if name in ("vae", "vocoder", "mel")}
    model |= {"encoder": variant.encoder, "unet": UNET}
    if variant.mode != "video":
        model["text"] = TEXT
    return {
        "seed": options.seed,
        "model": model,
        "data": {"seconds": SECONDS, "workers": 0, "concat": variant.concat},
        "conditioning": {"mode": variant.mode},
        "loss": {"weighting": "noise"},
        "optimizer": {"learning_rate": 2e-3, "schedule": "cosine", "warmup": 20, "clip": 1.0},
        "length": {"steps": options.steps, "batch": options.batch, "micro_batch": options.batch},
        "checkpoints": {"every": options.steps},
        "machine": {"device": "cpu", "mixed_precision": "no"},
    }


def toml(values: dict[str, Any], prefix: str = "") -> str:
    """Nested dicts as TOML; JSON's numbers, texts and lists are TOML's too."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    text = "\n".join([*([f"[{prefix}]"] if prefix else []), *plain]) + "\n\n"
    for key, value in values.items():
        if isinstance(value, dict):
            text += toml(value, f"{prefix}.{key}" if prefix else key)
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


def _folder(variant: Variant, options: argparse.Namespace) -> Path:
    return Path(options.work) / variant.name.replace(" ", "").replace("+", "_")


def _prompt(options: argparse.Namespace) -> str:
    with (Path(options.world) / "test.jsonl").open() as lines:
        return str(json.loads(next(lines))["description"])


def _losses(run: Path) -> list[float]:
    """Mean loss of a run's first and last steps."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    return [statistics.mean(losses[:AVERAGED]), statistics.mean(losses[-AVERAGED:])]


def _parameters(weights: Path) -> dict[str, int]:
    """How many there are in each part of the encoder, by the part's name."""
    from safetensors import safe_open

    prefix, sizes = "vid_fea_extractor.", dict[str, int]()
    with safe_open(weights, "numpy") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            if name.startswith(prefix):
                part = name.removeprefix(prefix).partition(".")[0]
                sizes[part] = sizes.get(part, 0) + int(np.prod(file.get_slice(name).get_shape()))
    return sizes


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
        print(_line(HEADINGS) + _line(["---"] * len(HEADINGS)), end="")
        for name, row in result["tiny"].items():
            print(_line(_cells(name, row)), end="")
        if result["true_sound"]:
            print(_line(["*true sound*", *[""] * 5, *_score_cells(result["true_sound"])]), end="")


HEADINGS = (
    "variant, tiny",
    "parameters",
    "GFLOP for 10 s",
    "encode 10 s",
    "tokens",
    "loss",
    "onset F1 ±100 ms",
    "±50 ms",
    "±100, other clips",
    "kind",
)


def _cells(name: str, row: dict[str, Any]) -> list[str]:
    text = f" + {row['text_parameters']:,} text" if row["text_parameters"] else ""
    losses = [row[key] for key in ("loss_of_prompts_alone", "loss") if key in row]
    return [
        name,
        f"{row['parameters']:,}{text}",
        f"{row['operations'] / 1e9:.3f}" if row["operations"] else "n/a",
        f"{1000 * row['encode_s']:.1f} ms",
        f"{10 * row['tokens_per_second']:g}",
        "; ".join(f"{first:.3f} to {last:.3f}" for first, last in losses),
        *_score_cells(row.get("scores", {})),
    ]


def _score_cells(scores: dict[str, Any]) -> list[str]:
    values = [(scores.get(key), form) for key, form in (("f1_100", ".3f"), ("f1_50", ".3f"), ("others_f1_100", ".3f"))]
    return ["n/a" if value is None else format(value, form) for value, form in [*values, (scores.get("kind"), ".0%")]]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The family of encoders at tiny size: trained, exported, timed.")
    parser.add_argument("--full-size", action="store_true", help="sizes and operations of the published encoders alone")
    parser.add_argument("--world", metavar="DIR", help="a data set that python -m train.demo.synthetic has written")
    parser.add_argument("--first-stage", metavar="DIR", help="vae/, vocoder/ and config.json of train.first_stage")
    parser.add_argument("--video", metavar="FILE", help="a real video, which each variant makes a sound for")
    parser.add_argument(
        "--work", default="runs/family", metavar="DIR", help="folder of the runs (default: runs/family)"
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="some of the rows alone")
    parser.add_argument("--steps", type=int, default=300, help="of training (default: 300)")
    parser.add_argument("--batch", type=int, default=4, help="clips a step (default: 4)")
    parser.add_argument("--clips", type=int, default=24, help="to train on (default: 24)")
    parser.add_argument("--test-clips", type=int, default=8, help="to score; 0: none (default: 8)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()

"""``vta models``, ``info``, ``check``, ``compare`` and ``bench``: what a bundle contains, whether it is right, and its cost."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vta_rt.backends import BACKENDS
from vta_rt.backends.tensorrt.index import check_engines, describe
from vta_rt.bundle import Bundle, find_bundle, list_bundles
from vta_rt.cli.command import BAD_INPUT, print_json, say
from vta_rt.cli.generate import PARTLY_DONE
from vta_rt.comparison import as_fields, check_shapes, compare
from vta_rt.errors import BundleError, OptionError
from vta_rt.files import is_hub_name
from vta_rt.manifest import MANIFEST, read_manifest
from vta_rt.pipeline import Pipeline
from vta_rt.references import compare_with_references, read_references
from vta_rt.sampling import read_sampling_options
from vta_rt.video import frames_of


def add_bundles(commands: Any) -> None:
    """Add the commands and their options."""
    info = commands.add_parser(
        "info", help="show what a bundle contains", description="Show what a bundle contains and where it came from."
    )
    _add_bundle(info)
    _add_json(info)
    info.set_defaults(run=_info)

    bench = commands.add_parser(
        "bench",
        help="measure what each stage costs here",
        description="Time every graph of a bundle on made-up input, from loading (cold) and once loaded (warm), with the "
        "operations of a call, their rate, the rate of a large matrix product here at the same precision (peak), and the "
        "most memory that the process used. Bundles built by old versions have no count of operations.",
    )
    _add_bundle(bench)
    bench.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="clips at once (default: 1)")
    bench.add_argument("--steps", type=int, metavar="N", help="of the generation (default: the model's own)")
    bench.add_argument("--guidance", type=float, metavar="G", help="of the generation (default: the model's own)")
    bench.add_argument("--repeats", type=int, default=3, metavar="N", help="calls to take the median of (default: 3)")
    _add_backend(bench)
    _add_json(bench)
    bench.set_defaults(run=_bench)

    check = commands.add_parser(
        "check",
        help="verify a bundle",
        description="Read every file of a bundle, compare its hash, load every graph, and compare what each gives here, and "
        "the denoising loop and the sound, with what they gave where the bundle was built.",
    )
    _add_bundle(check)
    _add_backend(check)
    _add_json(check)
    check.set_defaults(run=_check)

    compare = commands.add_parser(
        "compare",
        help="compare two bundles, or two backends",
        description="Run two bundles, or one bundle on two backends, and show how far apart they are: the relative error of "
        "each stage, fed with what the first one's stage before it gave, and the distance of the sounds. Both begin with the "
        "same frames and noise, and each is sampled as its bundle says.",
        epilog="examples: vta compare engines/a engines/b; vta compare engines/a --backend cpu openvino",
    )
    compare.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="one or two bundles, as for check (default: as for generate)"
    )
    compare.add_argument(
        "--backend",
        nargs="+",
        default=["auto"],
        metavar="NAME",
        help=f"one for both, or one each: {', '.join(BACKENDS)}",
    )
    compare.add_argument("--threads", type=int, metavar="N", help="processor cores to use (default: all)")
    compare.add_argument("--video", metavar="FILE", help="a clip to compare on (default: made-up frames)")
    compare.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    _add_json(compare)
    compare.set_defaults(run=_compare)

    models = commands.add_parser(
        "models",
        help="list the bundles that are here",
        description="List the bundles that can be named, and the default one.",
    )
    models.add_argument("name", nargs="?", metavar="NAME", help="only those of this name")
    _add_json(models)
    models.set_defaults(run=_models)


def _add_bundle(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "bundle",
        nargs="?",
        metavar="BUNDLE",
        help="a bundle: its name, folder or hf:owner/name (default: as for generate)",
    )


def _add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", default="auto", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: auto)")
    command.add_argument("--threads", type=int, metavar="N", help="processor cores to use (default: all)")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one object of JSON a line; docs/guide.md has the fields")


def _models(options: argparse.Namespace) -> int:
    default = Path(find_bundle()) if not is_hub_name(find_bundle()) else None
    bundles = list_bundles()
    if options.name is not None and options.name not in bundles:
        find_bundle(options.name)  # raises, with the names near it
        raise BundleError(f"{options.name}: is a path, a name is needed; here are {', '.join(bundles)}")
    failed = False
    for name, folders in bundles.items():
        for folder in folders if options.name in (None, name) else []:
            try:
                manifest = read_manifest(folder / MANIFEST)
            except BundleError as error:
                failed = True
                say(error)
                continue
            is_default = default is not None and default.exists() and folder.samefile(default)
            fields = {
                "name": name,
                "bundle": folder,
                "default": is_default,
                "seconds": manifest.model.seconds,
                "precision": manifest.precision,
                "steps": manifest.sampling.steps,
                "prompts": manifest.model.text is not None,
                "licence": manifest.source.licence,
            }
            if options.json:
                print_json(fields)
                continue
            facts = f"{manifest.model.seconds:.2f} s, {manifest.precision}, {manifest.sampling.steps} steps"
            print(f"{name}: {facts}, {folder}{' (default)' if is_default else ''}")
    return PARTLY_DONE if failed else 0


def _info(options: argparse.Namespace) -> int:
    bundle = Bundle(find_bundle(options.bundle))
    manifest, model, frames = bundle.manifest, bundle.manifest.model, bundle.manifest.frames
    if options.json:
        own = {
            "bundle": bundle.path,
            "precision": manifest.precision,
            "bytes": sum(file.size for file in manifest.files),
            "built_engines": describe(bundle),
        }
        print_json(own | asdict(manifest))
        return 0
    print(f"{bundle.path}")
    print(f"  format       {manifest.format_version}, {manifest.precision}")
    print(f"  sound        {model.seconds:g} s a pass, {model.sample_rate} Hz mono")
    print(
        f"  frames       {frames.rate:g} a second, {frames.size} x {frames.size} pixels, {frames.fit}; "
        f"{model.frame_count(frames)} a pass{', with positions' if model.positions else ''}"
    )
    cost = manifest.graphs["visual_encoder"].operations
    print(
        f"  encoder      {frames.encoder or 'not named'}, {frames.tokens_per_second:g} tokens a second; "
        f"{model.token_count(frames)} a pass{f', {_operations(cost)}' if cost else ''}"
    )
    print(f"  text         {f'prompts of up to {model.text.context} tokens' if model.text else 'takes no prompts'}")
    print(f"  latents      {list(model.latent_shape())}, tokens of {model.token_width}")
    schedule = manifest.schedule
    print(
        f"  diffusion    {schedule.prediction_type}, {schedule.train_timesteps} timesteps, {schedule.timestep_spacing} spacing"
    )
    sampling = manifest.sampling
    interval = ""
    if sampling.guidance_interval is not None:
        interval = " at noise levels {:g} to {:g}".format(*sampling.guidance_interval)
    print(f"  sampled by   {sampling.solver}, {sampling.steps} steps, guidance {sampling.guidance:g}{interval}")
    print(f"  made from    {manifest.source.checkpoint} by {manifest.source.exporter}")
    print(f"  licence      {manifest.source.licence or 'not stated'}")
    print(f"  trained on   {manifest.source.trained_on or 'not stated'}")
    for line in describe(bundle) or ["none"]:
        print(f"  engines      {line}")
    print(f"  {'graph':<20}{'precision':<11}{'MB':>9}  {'rel. error':<11} inputs")
    counted: set[str] = set()
    for name, record in manifest.graphs.items():
        size = sum(file.size for file in record.files if file.file not in counted) / 1e6
        counted |= {file.file for file in record.files}
        error = max(record.error.values(), default=float("nan"))
        inputs = ", ".join(f"{spec.name} [{', '.join(map(str, spec.shape))}]" for spec in record.inputs)
        print(f"  {name:<20}{record.precision:<11}{size:>9.1f}  {error:<11.1e} {inputs}")
    print("  (weights shared by two graphs are counted with the first)")
    return 0


def _operations(count: float) -> str:
    """``3.24 TFLOP``, a multiply-add counted as two."""
    size, unit = next(((10**power, name) for power, name in ((12, "T"), (9, "G")) if count >= 10**power), (10**6, "M"))
    return f"{count / size:.3g} {unit}FLOP"


def _bench(options: argparse.Namespace) -> int:
    from vta_rt.bench import measure, table

    pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads)
    sampling = pipeline.bundle.manifest.sampling.replace(**read_sampling_options(options))
    refused: list[str] = []
    rows = measure(pipeline, sampling, options.batch, options.repeats, refused.append)
    found = list(tqdm(rows, desc="measuring", bar_format="{desc} {n_fmt} {elapsed}", disable=None, leave=False))
    for message in refused:
        say(OptionError(message))
    if options.json:
        how = asdict(sampling) | {"bundle": pipeline.bundle.path, "backend": pipeline.backend}
        for row in found:
            print_json(how | asdict(row) | {"seconds": row.seconds, "rate": row.rate})
    elif found:
        interval = " in an interval" if sampling.guidance_interval else ""
        print(f"{pipeline.bundle.path}: {pipeline.model.seconds:g} s a clip, on {pipeline.backend}")
        print(f"{sampling.steps} steps of {sampling.solver}, guidance {sampling.guidance:g}{interval}")
        print(table(found))
    if not refused:
        return 0
    return PARTLY_DONE if found else BAD_INPUT


def _check(options: argparse.Namespace) -> int:
    pipeline = Pipeline(options.bundle, backend=options.backend, threads=options.threads)
    path, graphs = pipeline.bundle.path, pipeline.bundle.manifest.graphs
    files = pipeline.bundle.check()
    for name in graphs:
        pipeline.session(name)
    engines = check_engines(pipeline.bundle)
    references = read_references(pipeline.bundle)
    found = [] if references is None else compare_with_references(pipeline, references)
    wrong = [difference for difference in found if difference.is_too_large]
    if options.json:
        print_json(
            {
                "bundle": path,
                "backend": pipeline.backend,
                "files": len(files),
                "graphs": len(graphs),
                "engines": engines,
                "references": references is not None,
                "passed": not wrong,
                "stages": [difference._asdict() for difference in found],
            }
        )
    else:
        print(
            f"{path}: {len(files)} files intact, {len(graphs)} graphs load{f', {engines} engines intact' if engines else ''}"
        )
        print(f"runs here on {pipeline.backend}")
        if references is None:
            print("no references to compare with; python -m export.build --bundle DIR --references adds them")
        else:
            print(f"compared with {references.made_with}:")
            print(f"  {'graph':<20}{'relative error':>15}{'allowed':>10}")
            for stage, error, allowed in found:
                print(f"  {stage:<20}{error:>15.1e}{allowed:>10.0e}")
    if wrong:
        stage, error, allowed = wrong[0]
        raise BundleError(
            f"{path}: {stage} gives something else here than where it was built: relative error {error:.2g}, "
            f"at most {allowed:g} is allowed"
        )
    return 0


def _compare(options: argparse.Namespace) -> int:
    bundles, backends = options.bundles or [None], options.backend
    if max(len(bundles), len(backends)) != 2:
        given = f"{len(options.bundles)} bundles and {len(backends)} backends"
        raise OptionError(f"{given} are named; two bundles are compared, or one bundle on two backends")
    sides = [
        Pipeline(
            bundles[min(index, len(bundles) - 1)],
            backend=backends[min(index, len(backends) - 1)],
            threads=options.threads,
        )
        for index in range(2)
    ]
    first, second = sides
    check_shapes(first, second)
    frames = None if options.video is None else frames_of(options.video, first.frames, first.model.seconds)
    found = compare(first, second, frames=frames, seed=options.seed)
    if options.json:
        named = zip(("first", "second"), sides, strict=True)
        how = {name: {"bundle": side.bundle.path, "backend": side.backend} for name, side in named}
        print_json(how | {"video": options.video, "seed": options.seed} | as_fields(found))
        return 0
    for side in sides:
        sampling = side.bundle.manifest.sampling
        print(f"{side.bundle.path} on {side.backend}, {sampling.steps} steps of {sampling.solver}")
    print(f"  {'stage':<22}relative error")
    for stage, error in found.relative_error.items():
        print(f"  {stage:<22}{error:>14.1e}")
    print(f"  {'sound: log-mel':<22}{found.log_mel_distance:>11.2f} dB")
    print(f"  {'sound: spectrum':<22}{found.spectral_convergence:>14.1e}")
    print(f"  {'sound: level':<22}{found.level:>+11.2f} dB")
    return 0

"""A model that takes prompts, from checkpoint to sound: against transformers and train's own conditioning; what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from export import stages
from export.build import main as export_main
from export.bundling import Checkpoint, Options, build, open_checkpoint
from export.references import add_references
from export.tensorrt_builder import EngineBuilder
from tests.conftest import link_tree, relative_error
from tests.export.layouts import open_exported
from tests.export.test_tensorrt_builder import RTX, Phases
from tests.prompts import BEGIN, CONTEXT, END, save_tokenizer
from tests.vta_rt.cli.driver import without_model
from tests.vta_rt.conftest import make_clip
from tests.vta_rt.test_bundle import edit_manifest, flip_a_byte
from train.conditioning import Condition
from train.model import TEXT, LatentDiffusion
from train.settings import DenoiserOptimizerSettings, LossSettings
from vta_rt.backends.tensorrt.index import BuilderOptions, Profile, profile_inputs
from vta_rt.backends.tensorrt.variants import load
from vta_rt.bundle import Bundle
from vta_rt.cli import main
from vta_rt.config import ModelConfig, TextConfig
from vta_rt.errors import BundleError, OptionError, PromptWarning, VTAError
from vta_rt.manifest import read_manifest
from vta_rt.pipeline import Pipeline
from vta_rt.references import compare_with_references, read_references

QUICK = {"steps": 2, "guidance": 2.0, "seed": 1}


@pytest.fixture(scope="module")
def checkpoint(text_checkpoint: Path) -> Path:
    return text_checkpoint


@pytest.fixture(scope="module")
def bundle(bundle_text: Path) -> Path:
    return bundle_text


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Pipeline:
    return Pipeline(bundle)


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> Checkpoint:
    return open_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def model(opened: Checkpoint) -> LatentDiffusion:
    """The same weights as training has them."""
    model = LatentDiffusion(opened.config, DenoiserOptimizerSettings(), LossSettings()).eval()
    model.unet.load_state_dict(opened.modules.unet.state_dict())
    text = opened.modules.text
    assert text is not None
    model.vid_fea_extractor.load_state_dict(
        opened.modules.encoder.state_dict() | {f"{TEXT}.{name}": value for name, value in text.state_dict().items()}
    )
    return model


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_clip(folder / f"{n}.mp4", seconds=s, frame_rate=25) for n, s in enumerate((0.2, 0.6))]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    link_tree(bundle, tmp_path / "copy")
    return tmp_path / "copy"


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 224, 224, 3), np.uint8)


def trained(model: LatentDiffusion, visual: np.ndarray | None, prompt: list[int] | None, length: int) -> np.ndarray:
    """Tokens [N, D] as training makes them."""
    condition = Condition(
        None if visual is None else torch.from_numpy(visual), prompt and torch.tensor(prompt), length, False
    )
    with torch.no_grad():
        return model.tokens([condition])[0][0].numpy()


def test_clips_own_text_tower_as_transformers_computes_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The published vocabulary and context, read at the end token by a configuration of old and of new transformers."""
    opened = open_checkpoint(tiny_checkpoint)
    text, linear = opened.modules.text, opened.modules.encoder.linear_layer
    assert text is not None
    stage = stages.text_encoder(text, linear, ModelConfig(seconds=0.64, token_width=64, text=TextConfig()))
    session = open_exported(stage, tmp_path)

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = np.random.default_rng(0).integers(0, 49406, (3, 77))
    for row, length in zip(ids, (77, 12, 2), strict=True):
        row[0], row[length - 1 :] = 49406, 49407
    for end in (2, 49407):
        reference = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, projection_dim=512, eos_token_id=end)).eval()
        reference.load_state_dict(text.state_dict())
        with torch.no_grad():
            expected = linear(reference(torch.from_numpy(ids)).text_embeds).numpy()
        assert relative_error(session.run({"token_ids": ids})["tokens"], expected) < 1e-4
        for row, length in enumerate((77, 12, 2)):  # shorter, one at a time
            alone = session.run({"token_ids": ids[row : row + 1, :length]})["tokens"]
            assert relative_error(alone, expected[row : row + 1]) < 1e-4


def test_a_prompts_tokens_are_those_of_training(pipeline: Pipeline, model: LatentDiffusion) -> None:
    expected = trained(model, None, [BEGIN, 1, 2, END], 2)
    assert relative_error(pipeline.encode_text("a bell"), expected) < 1e-4
    both = pipeline.encode_text(["a bell", "drum"])
    assert both.shape == (2, 2, 24)
    assert relative_error(both[1], trained(model, None, [BEGIN, 3, END], 2)) < 1e-4
    assert relative_error(both[1], both[0]) > 1e-2


def test_a_prompt_and_frames_are_joined_as_in_training(pipeline: Pipeline, model: LatentDiffusion) -> None:
    video, ids = frames(2)[:1], [BEGIN, 1, 3, END]
    tokens = pipeline.run(lambda stages: stages.condition(video, np.array(ids)))
    assert tokens.shape == (2, 24)  # as often as there are frames, not as in a full window
    assert relative_error(tokens, trained(model, video, ids, 1)) < 1e-4


def test_the_unconditional_branch_attends_to_the_negative_prompt(pipeline: Pipeline, model: LatentDiffusion) -> None:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, 8, 16, 16), np.float32)
    tokens, negative = pipeline.encode_text("a bell")[None], pipeline.encode_text("drum")[None]
    feeds = {
        "latents": latents,
        "previous": np.zeros_like(latents),
        "noise": np.zeros_like(latents),
        "tokens": tokens,
        "token_mask": np.array([[True, False]]),
        "timestep": np.array([500], np.float32),
        "step": np.array([0, 1, 0, 1, 0, 0, 3, 0], np.float32),
    }

    def predicted(tokens: np.ndarray, mask: list[bool]) -> np.ndarray:
        with torch.no_grad():
            return model.unet(
                torch.from_numpy(latents),
                torch.tensor([500.0]),
                torch.from_numpy(tokens),
                encoder_attention_mask=torch.tensor([mask]),
            ).sample.numpy()

    conditional = predicted(tokens, [True, False])
    session = pipeline.session("denoiser")
    for away, mask in ((np.zeros_like(negative), [True, True]), (negative, [False, True])):
        unconditional = predicted(away, mask)
        given = {"negative_tokens": away, "negative_mask": np.array([mask])}
        expected = unconditional + 3 * (conditional - unconditional)
        assert relative_error(session.run(feeds | given)["denoised"], expected) < 1e-4


def test_without_a_negative_prompt_the_branch_sees_zeros(pipeline: Pipeline) -> None:
    tokens = pipeline.encode_text("a bell")
    same = pipeline.denoise(tokens, **QUICK)
    assert relative_error(pipeline.denoise(tokens, negative_tokens=np.zeros((5, 24)), **QUICK), same) < 1e-5
    assert relative_error(pipeline.denoise(tokens, negative_tokens=pipeline.encode_text("drum"), **QUICK), same) > 1e-4


def test_sound_for_a_prompt_alone(pipeline: Pipeline) -> None:
    bell, drum = pipeline.generate(None, text=["a bell", "a drum"], **QUICK)
    assert bell.duration == pytest.approx(0.64)
    assert relative_error(drum.samples, bell.samples) > 1e-3
    for text, expected in (("a bell", bell), ("a drum", drum)):
        alone = pipeline.generate(text=text, **QUICK)
        assert relative_error(alone.samples, expected.samples) < 1e-4


def test_videos_with_prompts(pipeline: Pipeline, clips: list[Path]) -> None:
    """One for all, or each its own; each clip sounds as it would alone."""
    plain = pipeline.generate(clips, **QUICK)
    each = pipeline.generate(clips, text=["a bell", "drum"], negative_prompt="a drum a", **QUICK)
    for index, text in enumerate(("a bell", "drum")):
        alone = pipeline.generate(clips[index], text=text, negative_prompt="a drum a", **QUICK)
        assert relative_error(each[index].samples, alone.samples) < 1e-4
        assert relative_error(each[index].samples, plain[index].samples) > 1e-3
    both = pipeline.generate(clips, text="drum", negative_prompt=["a drum a", "bell"], **QUICK)
    assert relative_error(both[1].samples, each[1].samples) > 1e-4


def test_a_negative_prompt_is_no_condition_of_its_own(pipeline: Pipeline, clips: list[Path]) -> None:
    away = pipeline.generate(clips[1], negative_prompt="drum", **QUICK)
    assert relative_error(away.samples, pipeline.generate(clips[1], **QUICK).samples) > 1e-4
    tokens = pipeline.encode(frames(2))
    repeated = pipeline.denoise(tokens, negative_tokens=pipeline.encode_text("drum"), **QUICK)
    once = pipeline.denoise(tokens, negative_tokens=pipeline.encode_text("drum")[:1], **QUICK)
    assert relative_error(repeated, once) < 1e-5  # one vector, however often it stands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"no video given; at least one video, or a prompt \(text\), is needed"),
        ({"text": []}, "no video given"),
        ({"negative_prompt": "drum"}, "no video given"),
        ({"text": ""}, "prompt is empty"),
        ({"text": 5}, "prompt is 5, a text is needed"),
        ({"text": ["a", None]}, "prompt is None, a text is needed"),
        ({"text": "a", "negative_prompt": " "}, "prompt is empty"),
        ({"text": "a", "negative_prompt": "a", "guidance": 1}, "guidance is 1, .* a negative prompt needs more"),
        ({"text": ["a", "a"], "negative_prompt": ["a"]}, "negative_prompt has 1 prompts for 2 sounds"),
        ({"video": "nowhere.mp4", "text": ["a", "a"]}, "text has 2 prompts for 1 sounds"),
    ],
)
def test_prompts_that_are_refused(pipeline: Pipeline, arguments: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline.generate(**(QUICK | arguments))


def test_arrays_that_are_no_negative_tokens(pipeline: Pipeline) -> None:
    tokens = np.zeros((2, 3, 24), np.float32)
    for negative in (np.zeros((1, 3, 24)), np.zeros((3, 23)), np.zeros(24), np.zeros((2, 0, 24))):
        with pytest.raises(OptionError, match=r"^negative_tokens is "):
            pipeline.denoise(tokens, negative_tokens=negative, **QUICK)


def test_a_bundle_without_text_says_so(bundle_short: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = Pipeline(bundle_short)
    for ask in (
        lambda: plain.generate(text="a bell"),
        lambda: plain.encode_text("a bell"),
        lambda: plain.generate("nowhere.mp4", negative_prompt="a bell"),
        lambda: plain.denoise(np.zeros((2, 24)), negative_tokens=np.zeros((2, 24))),
    ):
        with pytest.raises(OptionError, match="takes no prompts"):
            ask()
    assert main(["generate", "--text", "a bell", "--bundle", str(bundle_short), "-o", str(tmp_path / "a.wav")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "takes no prompts" in captured.err
    assert list(tmp_path.iterdir()) == []
    assert main(["info", str(bundle_short)]) == 0
    assert "text         takes no prompts\n" in capsys.readouterr().out


def vta(bundle: Path, *arguments: object) -> int:
    return main(["generate", *map(str, arguments), "--bundle", str(bundle), "--steps", "2"])


def test_the_command_line(
    bundle: Path, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vta(bundle, "--text", "a bell") == 0
    assert vta(bundle, "--text", "a bell", "-o", "out/", "--format", "flac") == 0
    assert vta(bundle, clips[0], "--text", "a bell", "--negative-text", "drum", "-o", "both.mp4") == 0
    captured = capsys.readouterr()
    assert captured.err.count("model: ") == captured.err.count("\n") == 3
    assert captured.out.startswith("sound.wav  0.64 s of sound in")
    assert sorted(str(path) for path in Path().rglob("*.*")) == ["both.mp4", "out/sound.flac", "sound.wav"]
    assert main(["info", str(bundle)]) == 0
    assert f"text         prompts of up to {CONTEXT} tokens\n" in capsys.readouterr().out


def test_a_long_prompt_is_one_note(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert vta(bundle, "--text", "a bell " * 9, "-o", tmp_path / "a.wav") == 0
    captured = capsys.readouterr()
    assert without_model(captured.err).count("\n") == 1
    assert captured.err.startswith("note: prompt 'a bell a bell")
    with pytest.warns(PromptWarning):
        Pipeline(bundle).encode_text("a bell " * 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no video given; name one, or describe the sound with --text"),
        (["--negative-text", "a"], "no video given"),
        (["--text", ""], "prompt is empty"),
        (["--text", "a", "-o", "a.mp4"], r"a.mp4: a prompt alone makes no video; use .wav, .flac"),
        (["--text", "a", "--format", "mkv"], "sound.mkv: a prompt alone makes no video"),
        (["--text", "a", "-o", "a.wav", "--format", "flac"], "ends in .wav but --format says flac"),
        (["--text", "a", "--negative-text", "a", "--guidance", "1"], "a negative prompt needs more"),
    ],
)
def test_command_lines_that_are_refused(
    bundle: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vta(bundle, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def _altered(bundle: Path) -> None:
    flip_a_byte(bundle / "tokenizer.json")


def _gone(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()


def _not_listed(bundle: Path) -> None:
    edit_manifest(bundle, tokenizer=None)


def _no_graph(bundle: Path) -> None:
    graphs = json.loads((bundle / "bundle.json").read_text())["graphs"]
    del graphs["text_encoder"]
    edit_manifest(bundle, graphs=graphs)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_altered, "tokenizer.json: its sha256 is not the manifest's"),
        (_gone, "tokenizer.json: is missing"),
        (_not_listed, "its model takes prompts, but it lists no tokenizer"),
        (_no_graph, "lists no graph text_encoder"),
    ],
)
def test_a_damaged_bundle(
    copy: Path, damage: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damage(copy)
    assert vta(copy, "--text", "a bell", "-o", tmp_path / "a.wav") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "a.wav").exists()


def test_a_tokenizer_that_changes_under_a_pipeline(copy: Path) -> None:
    pipeline = Pipeline(copy)
    content = (copy / "tokenizer.json").read_bytes()
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_bytes(content + b"\n")
    with pytest.raises(BundleError, match=r"tokenizer\.json: has changed since the bundle was opened"):
        pipeline.encode_text("a bell")


def test_tokenizers_that_export_refuses(
    checkpoint: Path, micro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = save_tokenizer(tmp_path / "other.json", begin=END, end=BEGIN)
    for ckpt, path, message in (
        (checkpoint, other, "must end with token 9"),
        (checkpoint, tmp_path, "tokenizer.json: is not there"),
        (micro_checkpoint, checkpoint, "the model has no text encoder"),
    ):
        command = ["--ckpt", str(ckpt), "--tokenizer", str(path), "--out", str(tmp_path / "bundle")]
        assert export_main(command) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "bundle").exists()


def test_the_manifest_and_graphs_of_a_model_with_prompts(bundle: Path, checkpoint: Path) -> None:
    manifest = read_manifest(bundle / "bundle.json")
    assert manifest.model.text == TextConfig(END + 1, CONTEXT)
    assert manifest.tokenizer is not None
    assert (bundle / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    inputs = {name: {spec.name: spec.shape for spec in graph.inputs} for name, graph in manifest.graphs.items()}
    assert inputs["text_encoder"] == {"token_ids": ("prompts", "length")}
    assert inputs["denoiser"]["negative_tokens"] == inputs["denoiser"]["tokens"] == (1, "frames", 24)
    assert "negative_tokens" not in inputs["denoiser_unguided"]
    assert len(Bundle(bundle).check()) == len(manifest.graphs) + 5 + 1  # two denoisers share their weights


def test_a_checkpoint_without_a_tokenizer_makes_a_bundle_without_prompts(
    checkpoint: Path, bundle_short: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It is also what a checkpoint makes that was trained on video alone, as the published ones are."""
    link_tree(checkpoint, tmp_path / "prompts")
    (tmp_path / "prompts" / "training.json").write_text('{"settings": {"conditioning": {"mode": "video"}}}')
    link_tree(bundle_short, tmp_path / "bundle")  # so that nothing is built
    out = build(tmp_path / "prompts", out=tmp_path / "bundle", options=Options(seconds=0.64))
    assert Bundle(out).manifest.model.text is None
    (tmp_path / "prompts" / "training.json").write_text('{"settings": {"conditioning": {"mode": "joint"}}}')
    (tmp_path / "prompts" / "tokenizer.json").unlink()
    out = build(tmp_path / "prompts", out=tmp_path / "bundle", options=Options(seconds=0.64))
    assert Bundle(out).manifest.model.text is None
    assert "takes no prompts (--tokenizer)" in " ".join(capsys.readouterr().err.split())


def test_attention_of_the_text_encoder_is_one_operator(bundle: Path) -> None:
    graph = onnx.load(bundle / "text_encoder.onnx", load_external_data=False).graph
    names = [node.op_type for node in graph.node]
    assert (names.count("Attention"), names.count("Softmax")) == (2, 0)


def test_an_engine_is_built_of_the_text_encoder(bundle: Path) -> None:
    try:
        trt, _ = load(RTX)
    except VTAError as error:
        pytest.skip(str(error))
    opened = Bundle(bundle)
    manifest = opened.manifest
    inputs = profile_inputs(manifest, "text_encoder", Profile(4))
    assert [spec.shape for spec in inputs] == [(1, CONTEXT)]
    engine, outputs = EngineBuilder(trt, RTX, BuilderOptions()).build(
        opened.graph_path("text_encoder"), inputs, Phases()
    )
    assert len(memoryview(engine)) > 0
    assert [(spec.name, spec.shape, spec.dtype) for spec in outputs] == [("tokens", (1, 24), "float32")]
    denoiser = {spec.name: spec.shape for spec in profile_inputs(manifest, "denoiser", Profile())}
    assert denoiser["tokens"] == denoiser["negative_tokens"] == (1, 4, 24)  # a vector for each frame, and the frames
    assert denoiser["negative_mask"] == (1, 4)


def test_references_of_a_model_that_takes_prompts(copy: Path) -> None:
    """Also of the text encoder, and of guidance away from other tokens than zeros."""
    add_references(copy)
    pipeline = Pipeline(copy, backend="cpu")
    references = read_references(pipeline.bundle)
    assert references is not None
    found = {difference.stage: difference for difference in compare_with_references(pipeline, references)}
    assert found.keys() >= pipeline.bundle.manifest.graphs.keys()
    assert "text_encoder" in found
    assert not any(difference.is_too_large for difference in found.values())

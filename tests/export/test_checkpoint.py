"""Every layout a checkpoint comes in opens as the same model; everything else is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SpeechT5HifiGan

from export.checkpoint import Checkpoint, open_checkpoint
from export.errors import CheckpointError
from train.config import SystemConfig, TextConfig, UNetConfig, VAEConfig, VocoderConfig, to_dict
from train.vae import build_vae, compvis_name, legacy_name
from train.vocoder import build_vocoder, published_name
from vta_rt.errors import VTAError

StateDict = dict[str, Tensor]
MODEL = "vta-ldm-clip4clip-v-large"
SMALL_VAE = VAEConfig(block_out_channels=(32, 64, 64))
SMALL_VOCODER = VocoderConfig(initial_channels=64)
UNET_CONV = "unet.down_blocks.1.resnets.0.conv1.weight"


# ---- checkpoints to open and to damage ----


@pytest.fixture(scope="module")
def model_tensors(tiny_checkpoint: Path) -> StateDict:
    return torch.load(tiny_checkpoint / MODEL / "pytorch_model_2.bin", weights_only=True)


@pytest.fixture(scope="module")
def small_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return build_vae(SMALL_VAE)


@pytest.fixture(scope="module")
def small_vocoder() -> SpeechT5HifiGan:
    torch.manual_seed(1)
    return build_vocoder(SMALL_VOCODER)


@pytest.fixture(scope="module")
def first_stage_tensors(small_vae: AutoencoderKL, small_vocoder: SpeechT5HifiGan) -> StateDict:
    """A narrow first stage under the names of AudioLDM, without their prefix."""
    tensors = {compvis_name(name, levels=3): value for name, value in small_vae.state_dict().items()}
    for name, value in tensors.items():
        if "attn_1" in name and value.ndim == 2:
            tensors[name] = value[:, :, None, None]  # there, attention is made of 1x1 convolutions
    return tensors | {f"vocoder.{published_name(name)}": value for name, value in small_vocoder.state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path, first_stage_tensors: StateDict) -> Path:
    """A published layout with a narrow first stage. Files are links: replace them, never write into them."""
    model = tmp_path / "ckpt" / MODEL
    model.mkdir(parents=True)
    for name in ("pytorch_model_2.bin", "summary.jsonl"):
        os.link(tiny_checkpoint / MODEL / name, model / name)
    save_audioldm(model.parent / "audioldm-s-full.ckpt", first_stage_tensors)
    return model.parent


def save_audioldm(path: Path, tensors: StateDict) -> None:
    named = {f"first_stage_model.{name}": value for name, value in tensors.items()}
    others = {"model.diffusion_model.out.2.bias": torch.zeros(8), "first_stage_model.loss.logvar": torch.zeros(())}
    torch.save({"state_dict": named | others | {"scale_factor": torch.tensor(0.5)}, "epoch": 3}, path)


def replace_weights(folder: Path, tensors: object) -> Path:
    """The model's weights file with other content."""
    path = folder / MODEL / "pytorch_model_2.bin"
    path.unlink()
    torch.save(tensors, path)
    return path


def change_summary(folder: Path, **values: object) -> Path:
    path = folder / MODEL / "summary.jsonl"
    summary = json.loads(path.read_text()) | values
    path.unlink()
    path.write_text(json.dumps(summary) + "\n" + json.dumps({"epoch": 1, "loss": 0.5}) + "\n")
    return path


def write_config(folder: Path, values: dict[str, object]) -> Path:
    path = folder / MODEL / "config.json"
    path.write_text(json.dumps(values))
    return path


def save_pipeline(folder: Path, vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> Path:
    """The first stage as diffusers and transformers save it."""
    vae.save_pretrained(folder / "vae")
    vocoder.save_pretrained(folder / "vocoder")
    weights = folder / "vocoder" / "model.safetensors"
    save_file(load_file(weights) | {"mean": torch.zeros(64), "scale": torch.ones(64)}, weights, {"format": "pt"})
    return folder


def refusal(ckpt: Path | str, first_stage: Path | str | None = None) -> str:
    """The message with which a checkpoint is refused, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ckpt, first_stage)
    message = str(caught.value)
    assert isinstance(caught.value, VTAError)
    assert len(message.splitlines()) == 1
    return message


def assert_same_tensors(found: StateDict, expected: StateDict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.float()), name


# ---- what opens ----


def test_published_layout(
    folder: Path, model_tensors: StateDict, small_vae: AutoencoderKL, small_vocoder: SpeechT5HifiGan
) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.name == MODEL
    assert checkpoint.scale_factor == 0.5
    assert "non-commercial" in checkpoint.licence
    unet = {name.removeprefix("unet."): value for name, value in model_tensors.items() if name.startswith("unet.")}
    assert_same_tensors(checkpoint.unet().state_dict(), unet)
    encoder = checkpoint.encoder().state_dict()
    assert_same_tensors(encoder, {name: model_tensors[f"vid_fea_extractor.{name}"] for name in encoder})
    text = checkpoint.text_encoder()
    assert text is not None
    assert text(torch.tensor([[49406, 320, 49407]])).text_embeds.shape == (1, 512)
    assert_same_tensors(checkpoint.vae().state_dict(), small_vae.state_dict())
    assert_same_tensors(checkpoint.vocoder().state_dict(), small_vocoder.state_dict())


def test_configuration_comes_from_shapes_and_summary(folder: Path) -> None:
    change_summary(folder, pe=True)
    config = open_checkpoint(folder).config
    assert config == SystemConfig(
        encoder=replace(
            config.encoder, width=64, layers=2, heads=4, intermediate=128, patch=32, image_size=224, projection=512,
            tokens_dim=64, positions=True, activation="quick_gelu",
        ),
        text=TextConfig(width=64, layers=2, heads=4, intermediate=128, projection=512, vocabulary=49408, context=77),
        unet=UNetConfig((32, 32, 64, 64), (2, 2, 4, 4), cross_attention_dim=64, norm_groups=8),
        vae=replace(SMALL_VAE, scale_factor=0.5),
        vocoder=SMALL_VOCODER,
        licence=config.licence,
    )  # fmt: skip


def test_modules_are_ready_for_use(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    for module in (checkpoint.encoder(), checkpoint.unet(), checkpoint.vae(), checkpoint.vocoder()):
        assert not module.training
        for tensor in (*module.parameters(), *module.buffers()):
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_weights_are_not_copied(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.unet().conv_in.weight.data_ptr() == checkpoint.unet().conv_in.weight.data_ptr()


def as_safetensors(folder: Path, tensors: StateDict) -> None:
    (folder / MODEL / "pytorch_model_2.bin").unlink()
    save_file(tensors, folder / MODEL / "model_2.safetensors")


def as_legacy_pickle(folder: Path, tensors: StateDict) -> None:
    path = folder / MODEL / "pytorch_model_2.bin"
    path.unlink()
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def as_half_precision(folder: Path, tensors: StateDict) -> None:
    """bfloat16 for the UNet, float16 for the rest; compared after the same rounding."""
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(torch.bfloat16 if name.startswith("unet.") else torch.float16)
    replace_weights(folder, tensors)


def with_position_ids(folder: Path, tensors: StateDict) -> None:
    ids = {f"vid_fea_extractor.clip_{side}.{side}_model.embeddings.position_ids": 7 for side in ("vision", "text")}
    replace_weights(folder, tensors | {name: torch.arange(length)[None] for name, length in ids.items()})


def without_text(folder: Path, tensors: StateDict) -> None:
    replace_weights(folder, {name: value for name, value in tensors.items() if ".clip_text." not in name})


@pytest.mark.parametrize(
    "variant", [as_safetensors, as_legacy_pickle, as_half_precision, with_position_ids, without_text]
)
def test_model_variants(folder: Path, model_tensors: StateDict, variant: Callable[[Path, StateDict], None]) -> None:
    tensors = dict(model_tensors)
    variant(folder, tensors)
    checkpoint = open_checkpoint(folder)
    unet, encoder = checkpoint.unet().state_dict(), checkpoint.encoder().state_dict()
    assert_same_tensors(unet, {name: tensors[f"unet.{name}"] for name in unet})
    assert_same_tensors(encoder, {name: tensors[f"vid_fea_extractor.{name}"] for name in encoder})
    assert {tensor.dtype for tensor in (unet | encoder).values()} == {torch.float32}
    assert (checkpoint.text_encoder() is None) == (variant is without_text)


def test_model_folder_and_weights_file_can_be_named_directly(folder: Path) -> None:
    for path in (folder / MODEL, folder / MODEL / "pytorch_model_2.bin"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.name == MODEL
        assert checkpoint.model_files["pytorch_model_2.bin"] == folder / MODEL / "pytorch_model_2.bin"


def test_relative_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / MODEL)
    assert open_checkpoint("pytorch_model_2.bin").name == MODEL


def test_full_size_configuration(tmp_path: Path, first_stage_tensors: StateDict) -> None:
    """Shapes alone make the configuration, so the full-size table stands for the 4 GB file."""
    from export.configure import configure, read_settings

    upstream = Path(__file__).parents[1] / "upstream"
    shapes = {name: tuple(shape) for name, (shape, _) in json.loads((upstream / "model_full.json").read_text()).items()}
    (tmp_path / "summary.jsonl").write_text((upstream / "summary_full.json").read_text())
    config = configure(tmp_path / "pytorch_model_2.bin", shapes, read_settings(tmp_path), {})
    assert config == SystemConfig(text=TextConfig(), licence=config.licence)


# ---- first stages ----


def as_audioldm(path: Path, tensors: StateDict, *_: object) -> Path:
    save_audioldm(path / "any-name.ckpt", tensors)
    return path / "any-name.ckpt"


def as_audioldm_folder(path: Path, tensors: StateDict, *_: object) -> Path:
    save_audioldm(path / "audioldm-s-full.ckpt", tensors)
    return path


def as_accelerate_pickle(path: Path, tensors: StateDict, *_: object) -> Path:
    torch.save(tensors, path / "pytorch_model.bin")
    return path / "pytorch_model.bin"


def as_accelerate_safetensors(path: Path, tensors: StateDict, *_: object) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


def as_pipeline(path: Path, _: StateDict, vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> Path:
    return save_pipeline(path, vae, vocoder)


def as_old_pipeline(path: Path, _: StateDict, vae: AutoencoderKL, vocoder: SpeechT5HifiGan) -> Path:
    """Pickles, and attention as diffusers named it before 0.18."""
    save_pipeline(path, vae, vocoder)
    for half, new, old in (
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vocoder", "model.safetensors", "pytorch_model.bin"),
    ):
        tensors = load_file(path / half / new)
        (path / half / new).unlink()
        torch.save({legacy_name(name): tensor for name, tensor in tensors.items()}, path / half / old)
    return path


FIRST_STAGE_FORMS = [
    as_audioldm,
    as_audioldm_folder,
    as_accelerate_pickle,
    as_accelerate_safetensors,
    as_pipeline,
    as_old_pipeline,
]


@pytest.mark.parametrize("form", FIRST_STAGE_FORMS)
def test_first_stage_forms(
    form: Callable[..., Path],
    folder: Path,
    tmp_path: Path,
    first_stage_tensors: StateDict,
    small_vae: AutoencoderKL,
    small_vocoder: SpeechT5HifiGan,
) -> None:
    (tmp_path / "stage").mkdir()
    path = form(tmp_path / "stage", first_stage_tensors, small_vae, small_vocoder)
    (folder / "audioldm-s-full.ckpt").unlink()
    checkpoint = open_checkpoint(folder, path)
    assert_same_tensors(checkpoint.vae().state_dict(), small_vae.state_dict())
    assert_same_tensors(checkpoint.vocoder().state_dict(), small_vocoder.state_dict())
    assert checkpoint.scale_factor == (0.5 if "audioldm" in form.__name__ else 0.9227914)


@pytest.mark.parametrize(
    ("form", "place"),
    [
        (as_audioldm_folder, "."),
        (as_audioldm_folder, MODEL),
        (as_accelerate_pickle, MODEL),
        (as_accelerate_safetensors, MODEL),
        (as_pipeline, "."),
        (as_pipeline, MODEL),
        (as_pipeline, "audioldm-s-full"),
    ],
)
def test_first_stage_is_found_beside_the_checkpoint(
    form: Callable[..., Path],
    place: str,
    folder: Path,
    first_stage_tensors: StateDict,
    small_vae: AutoencoderKL,
    small_vocoder: SpeechT5HifiGan,
) -> None:
    (folder / "audioldm-s-full.ckpt").unlink()
    (folder / place).mkdir(exist_ok=True)
    form(folder / place, first_stage_tensors, small_vae, small_vocoder)
    assert open_checkpoint(folder / MODEL).config.vae.block_out_channels == SMALL_VAE.block_out_channels


def test_pipeline_configuration_is_honoured(folder: Path, tmp_path: Path) -> None:
    vae = VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_groups=8, scale_factor=0.7)
    vocoder = VocoderConfig(
        initial_channels=16, upsample_rates=(8, 4), upsample_kernels=(16, 8), resblock_kernels=(3,),
        resblock_dilations=((1, 2),), leaky_slope=0.2,
    )  # fmt: skip
    save_pipeline(tmp_path / "stage", build_vae(vae), build_vocoder(vocoder))
    config = open_checkpoint(folder, tmp_path / "stage").config
    assert (config.vae, config.vocoder) == (vae, vocoder)
    assert (config.mel.hop, config.mel.bins, config.mel.sample_rate) == (32, 64, 16000)


def test_scale_factor_may_be_a_plain_number(folder: Path, first_stage_tensors: StateDict, tmp_path: Path) -> None:
    torch.save(first_stage_tensors | {"scale_factor": 0.25}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(folder, tmp_path / "pytorch_model.bin").scale_factor == 0.25


# ---- config.json ----


def test_config_json_replaces_the_summary(folder: Path) -> None:
    config = open_checkpoint(folder).config
    write_config(folder, to_dict(replace(config, frame_rate=4.0, licence="CC0")))
    (folder / MODEL / "summary.jsonl").unlink()
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config == replace(config, frame_rate=4.0, licence="CC0")
    assert checkpoint.config_dict["frame_rate"] == 4.0
    assert set(checkpoint.model_files) == {"pytorch_model_2.bin", "config.json"}


def test_config_json_wins_value_by_value(folder: Path) -> None:
    config = open_checkpoint(folder).config
    write_config(folder, {"encoder": {"positions": True}, "unet": {"attention_heads": [1, 1, 2, 2]}})
    assert open_checkpoint(folder).config == replace(
        config,
        encoder=replace(config.encoder, positions=True),
        unet=replace(config.unet, attention_heads=(1, 1, 2, 2)),
    )


def test_noise_schedule_fits_the_runtime(folder: Path) -> None:
    from vta_rt.schedule import NoiseSchedule

    write_config(folder, {"noise": {"beta_end": 0.02}})
    assert NoiseSchedule(**open_checkpoint(folder).noise_schedule) == NoiseSchedule(beta_end=0.02)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"unet": {"widths": 3}}, "unknown unet.widths"),
        ({"encoder": {"heads": "four"}}, "encoder.heads"),
        ({"architectures": ["CLIPModel"]}, "unknown architectures"),
    ],
)
def test_config_json_of_another_kind(folder: Path, values: dict[str, object], named: str) -> None:
    path = write_config(folder, values)
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert named in message


def test_configuration_that_cannot_be_built(folder: Path) -> None:
    write_config(folder, {"unet": {"norm_groups": 7}})
    assert "no unet can be built with UNetConfig(" in refusal(folder)


# ---- the model hub, offline ----


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(hub: Path, repository: str, files: dict[str, Path]) -> None:
    """One snapshot in the layout of the hub's local cache."""
    root = hub / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for name, path in files.items():
        target = root / "snapshots" / commit / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)


def test_hub_ids(folder: Path, hub: Path, tmp_path: Path) -> None:
    model = folder / MODEL
    put_in_cache(hub, "owner/model", {name: model / name for name in ("pytorch_model_2.bin", "summary.jsonl")})
    pipeline = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    files = {str(path.relative_to(pipeline)): path for path in pipeline.rglob("*") if path.is_file()}
    put_in_cache(hub, "owner/stage", files)
    checkpoint = open_checkpoint("owner/model", "owner/stage")
    assert checkpoint.name == "model"
    assert checkpoint.config.vocoder == SMALL_VOCODER
    assert set(checkpoint.sha256) == {
        "pytorch_model_2.bin", "summary.jsonl", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        "vocoder/config.json", "vocoder/model.safetensors",
    }  # fmt: skip


def test_a_path_that_exists_wins_over_a_hub_id(folder: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_cache(hub, f"ckpt/{MODEL}", {})
    monkeypatch.chdir(folder.parent)
    assert open_checkpoint(f"ckpt/{MODEL}").name == MODEL


def test_hub_id_that_is_not_to_be_had(folder: Path, hub: Path) -> None:
    assert refusal("owner/unknown").startswith("owner/unknown: no such folder")
    assert refusal(folder, "owner/unknown").startswith("owner/unknown: no such folder")


# ---- hashes ----


def test_sha256(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    expected = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*(folder / MODEL).iterdir(), folder / "audioldm-s-full.ckpt")
    }
    assert checkpoint.sha256 == expected
    assert set(checkpoint.first_stage_sha256) == {"audioldm-s-full.ckpt"}


def test_files_of_one_name_keep_their_own_hash(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    (folder / MODEL / "pytorch_model_2.bin").rename(folder / MODEL / "any.bin")
    (tmp_path / "stage").mkdir()
    torch.save(first_stage_tensors, tmp_path / "stage" / "any.bin")
    checkpoint = open_checkpoint(folder / MODEL / "any.bin", tmp_path / "stage" / "any.bin")
    assert set(checkpoint.sha256) == {"any.bin", "summary.jsonl", "stage/any.bin"}


# ---- files that are not there ----


def test_no_such_path(tmp_path: Path, folder: Path) -> None:
    assert refusal(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: no such file or folder"
    assert refusal(folder, tmp_path / "nothing") == f"{tmp_path / 'nothing'}: no such file or folder"


def test_folder_without_weights(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: holds no checkpoint, neither model_2.safetensors nor pytorch_model_2.bin")


def test_folder_with_several_checkpoints(folder: Path) -> None:
    (folder / "another").mkdir()
    os.link(folder / MODEL / "pytorch_model_2.bin", folder / "another" / "pytorch_model_2.bin")
    assert refusal(folder).endswith(f"name one of them: another, {MODEL}")


def test_no_summary(folder: Path) -> None:
    (folder / MODEL / "summary.jsonl").unlink()
    assert refusal(folder).startswith(f"{folder / MODEL}: has no summary.jsonl")


@pytest.mark.parametrize("text", ["", "epoch 1", "[1, 2]"])
def test_summary_that_is_none(folder: Path, text: str) -> None:
    path = folder / MODEL / "summary.jsonl"
    path.unlink()
    path.write_text(text)
    assert refusal(folder).startswith(f"{path}: ")


def test_no_first_stage(folder: Path) -> None:
    (folder / "audioldm-s-full.ckpt").unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder / MODEL}: has no first stage")
    for part in ("--first-stage", "audioldm-s-full.ckpt", "cvssp/audioldm-s-full", "CC BY-NC-SA 4.0", "non-commercial"):
        assert part in message


def test_folder_without_first_stage(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(folder, tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: holds no first stage")


def test_half_a_pipeline(folder: Path, tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    assert f"give the folder above, {pipeline}" in refusal(folder, pipeline / "vae")
    (pipeline / "vocoder" / "model.safetensors").unlink()
    assert refusal(folder, pipeline).startswith(f"{pipeline / 'vocoder'}: holds no weights")


def test_pipeline_without_configuration(folder: Path, tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    path = pipeline / "vae" / "config.json"
    path.unlink()
    assert refusal(folder, pipeline).startswith(f"{path}: cannot be read (No such file")


# ---- files that are something else ----


def git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def web_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")


def truncated(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def truncated_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:9000])


def truncated_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("audioldm/readme.txt", "x")


def whole_module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


class Runs:
    """Unpickled carelessly, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (f"{self.path}.was-run",)


FOREIGN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "is empty"),
    (git_lfs_pointer, "is a git-lfs pointer"),
    (web_page, "is a web page"),
    (lambda path: path.write_text('{"error": "not found"}'), "is a JSON text"),
    (lambda path: path.write_bytes(b"RIFF0000WAVE"), "is neither a torch file nor a safetensors file"),
    (truncated, "truncated"),
    (truncated_legacy, "truncated"),
    (truncated_safetensors, "truncated"),
    (other_zip, "is a zip archive of other files (audioldm/readme.txt)"),
    (lambda path: torch.jit.script(torch.nn.Identity()).save(path), "is a TorchScript program"),
    (whole_module, "holds a Python object (torch.nn.modules.linear.Linear)"),
    (lambda path: torch.save({"a": Runs(path)}, path), "holds a Python object (posix.mkdir)"),
    (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "is a pickle, but not one"),
    (lambda path: torch.save([torch.zeros(2)], path), "holds a list, a state dict is needed"),
    (lambda path: torch.save({"model": {"a": torch.zeros(2)}, "epoch": 3}, path), "what it holds is model, epoch"),
    (lambda path: torch.save({}, path), "it is empty"),
    (lambda path: torch.save({"abc.weight": torch.zeros(2)}, path), "what it holds is abc.weight"),
]


@pytest.mark.parametrize(("make", "told"), FOREIGN)
@pytest.mark.parametrize("role", ["model", "first stage"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_foreign_files(folder: Path, make: Callable[[Path], object], told: str, role: str) -> None:
    path = folder / MODEL / "pytorch_model_2.bin" if role == "model" else folder / "audioldm-s-full.ckpt"
    path.unlink()
    make(path)
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert not Path(f"{path}.was-run").exists()


def optimizer(_: StateDict) -> object:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    adam = torch.optim.AdamW([parameter])
    adam.step()
    return adam.state_dict()


def below(tensors: StateDict, prefix: str) -> StateDict:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


LOOK_ALIKES: list[tuple[Callable[[StateDict], object], str]] = [
    (optimizer, "an optimizer's state"),
    (lambda tensors: {"base_lrs": [0.1], "last_epoch": 2, "_step_count": 3}, "a learning-rate scheduler's state"),
    (lambda tensors: below(tensors, "unet."), "a bare UNet"),
    (lambda tensors: {name: t for name, t in tensors.items() if name.startswith("unet.")}, "a UNet alone"),
    (lambda tensors: below(tensors, "vid_fea_extractor.clip_vision."), "a CLIP image encoder"),
    (lambda tensors: below(tensors, "vid_fea_extractor.clip_text."), "a CLIP text encoder"),
    (lambda tensors: {f"module.{name}": t for name, t in tensors.items()}, "DistributedDataParallel"),
    (lambda tensors: tensors | {"ib_model.head": torch.zeros(2)}, "ImageBind as frame encoder; only CLIP is supported"),
    (
        lambda tensors: {"unet.conv_in.bias": torch.zeros(2), "text_encoder.shared.weight": torch.zeros(2)},
        "a text-to-audio checkpoint of Tango",
    ),
    (lambda tensors: {"stft_fn.forward_basis": torch.zeros(2)}, "the short-time Fourier transform"),
]


@pytest.mark.parametrize(("change", "told"), LOOK_ALIKES)
def test_models_of_another_kind(
    folder: Path, model_tensors: StateDict, change: Callable[[StateDict], object], told: str
) -> None:
    path = replace_weights(folder, change(model_tensors))
    message = refusal(folder)
    assert message.startswith(f"{path}: is not a")
    assert "it looks like" in message
    assert told in message


def test_first_stages_in_the_models_place(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    told = refusal(folder / "audioldm-s-full.ckpt")
    assert "text-to-audio checkpoint of AudioLDM, which is of use as --first-stage only" in told
    torch.save(first_stage_tensors, tmp_path / "pytorch_model.bin")
    assert "it looks like a first stage" in refusal(tmp_path / "pytorch_model.bin")


def test_a_model_in_the_first_stages_place(folder: Path) -> None:
    message = refusal(folder, folder / MODEL / "pytorch_model_2.bin")
    assert "is not a first stage" in message
    assert message.endswith("it looks like a VTA-LDM model")


def test_half_a_first_stage(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    vae = {name: tensor for name, tensor in first_stage_tensors.items() if not name.startswith("vocoder.")}
    torch.save(vae, tmp_path / "vae.bin")
    assert "no vocoder.*; it looks like an autoencoder (VAE) alone" in refusal(folder, tmp_path / "vae.bin")
    torch.save(below(first_stage_tensors, "vocoder."), tmp_path / "vocoder.bin")
    assert "it looks like a HiFi-GAN vocoder alone" in refusal(folder, tmp_path / "vocoder.bin")


# ---- tensors that do not fit ----


def test_missing_tensors_are_named(folder: Path, model_tensors: StateDict) -> None:
    gone = [UNET_CONV, "vid_fea_extractor.linear_layer.bias", "vid_fea_extractor.clip_text.text_projection.weight"]
    replace_weights(folder, {name: tensor for name, tensor in model_tensors.items() if name not in gone})
    message = refusal(folder)
    assert "; 3 missing: " in message
    assert all(name in message for name in gone)
    assert "unexpected" not in message
    assert "another shape" not in message


def test_unexpected_tensors_are_named(folder: Path, model_tensors: StateDict) -> None:
    extra = {"unet.down_blocks.9.resnets.0.conv1.weight": torch.zeros(2), "ema.decay": torch.zeros(())}
    replace_weights(folder, model_tensors | extra)
    assert refusal(folder).endswith("; 2 unexpected: unet.down_blocks.9.resnets.0.conv1.weight, ema.decay")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("unet.conv_in.weight", (32, 4, 3, 3)),
        (UNET_CONV, (48, 32, 3, 3)),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", (64, 128)),
        ("vid_fea_extractor.linear_layer.weight", (32, 512)),
        ("vid_fea_extractor.linear_layer.weight", (64, 768)),
        ("vid_fea_extractor.clip_vision.vision_model.encoder.layers.1.self_attn.k_proj.bias", (65,)),
        ("vid_fea_extractor.clip_vision.vision_model.embeddings.patch_embedding.weight", (64, 3, 16, 32)),
        ("vid_fea_extractor.clip_vision.vision_model.embeddings.position_embedding.weight", (49, 64)),
        ("vid_fea_extractor.clip_vision.visual_projection.weight", (256, 64)),
    ],
)
def test_one_misshapen_tensor_is_named_alone(
    folder: Path, model_tensors: StateDict, name: str, shape: tuple[int, ...]
) -> None:
    replace_weights(folder, model_tensors | {name: torch.zeros(shape)})
    expected = list(model_tensors[name].shape)
    assert refusal(folder).endswith(f"; 1 of another shape or type: {name} is {list(shape)}, not {expected}")


def test_one_misshapen_tensor_of_the_first_stage(folder: Path, first_stage_tensors: StateDict) -> None:
    for name in ("encoder.down.1.block.0.conv1.weight", "decoder.conv_in.weight", "vocoder.conv_pre.bias"):
        changed = torch.zeros(3, *first_stage_tensors[name].shape[1:])
        (folder / "audioldm-s-full.ckpt").unlink()
        save_audioldm(folder / "audioldm-s-full.ckpt", first_stage_tensors | {name: changed})
        message = refusal(folder)
        assert f"; 1 of another shape or type: first_stage_model.{name} is {list(changed.shape)}, not " in message


def test_quantised_weights_are_refused(folder: Path, model_tensors: StateDict) -> None:
    replace_weights(folder, model_tensors | {UNET_CONV: model_tensors[UNET_CONV].to(torch.int8)})
    assert f"{UNET_CONV} is [32, 32, 3, 3] int8, not [32, 32, 3, 3]" in refusal(folder)


def test_long_lists_are_cut(folder: Path, model_tensors: StateDict) -> None:
    replace_weights(folder, {name: tensor for name, tensor in model_tensors.items() if ".up_blocks." not in name})
    count = sum(".up_blocks." in name for name in model_tensors)
    message = refusal(folder)
    assert f"; {count} missing: " in message
    assert message.endswith(f"and {count - 20} more")
    assert message.count("unet.up_blocks.") == 20


def test_widths_of_no_published_model(folder: Path, model_tensors: StateDict) -> None:
    """Heads and groups cannot be seen, so they must be given; then the model opens."""
    name = "unet.down_blocks.0.resnets."
    wider = {key: torch.zeros(40, *t.shape[1:]) if key.startswith(name) else t for key, t in model_tensors.items()}
    replace_weights(folder, wider)
    change_summary(folder, fea_encoder_name="my-clip")
    message = refusal(folder)
    for unknown in ("encoder.heads", "text.heads", "unet.attention_heads", "unet.norm_groups"):
        assert unknown in message
    assert message.endswith(f"give them in {folder / MODEL / 'config.json'}")
    replace_weights(folder, model_tensors)
    write_config(folder, {"encoder": {"heads": 4}, "text": {"heads": 2}})
    config = open_checkpoint(folder).config
    assert config.text is not None
    assert (config.encoder.heads, config.text.heads) == (4, 2)


def test_summary_and_tensors_that_disagree(folder: Path) -> None:
    path = change_summary(folder, embedding_dim=2048)
    message = refusal(folder)
    assert message.startswith(f"{path}: embedding_dim is 2048, but the UNet in pytorch_model_2.bin")
    assert "64 wide" in message


def test_summary_of_another_encoder(folder: Path) -> None:
    change_summary(folder, ib=True)
    assert "ImageBind; only CLIP is supported" in refusal(folder)


def test_model_and_first_stage_that_disagree(folder: Path, tmp_path: Path) -> None:
    vae = build_vae(replace(SMALL_VAE, latent_channels=4))
    stage = save_pipeline(tmp_path / "stage", vae, build_vocoder(SMALL_VOCODER))
    assert "its UNet has 8 latent channels and the first stage 4" in refusal(folder, stage)


@pytest.mark.parametrize("value", [0.0, float("nan"), [1.0, 2.0]])
def test_scale_factor_that_is_none(folder: Path, first_stage_tensors: StateDict, value: object) -> None:
    path = folder / "audioldm-s-full.ckpt"
    path.unlink()
    torch.save(first_stage_tensors | {"scale_factor": torch.tensor(value)}, path)
    assert refusal(folder).startswith(f"{path}: its scale_factor is ")


def test_vocoder_of_normalised_mels(folder: Path, tmp_path: Path) -> None:
    stage = save_pipeline(tmp_path / "stage", build_vae(SMALL_VAE), build_vocoder(SMALL_VOCODER))
    path = stage / "vocoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalize_before": True}))
    assert refusal(folder, stage).startswith(f"{path}: normalize_before is true")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, model_tensors: StateDict, value: float) -> None:
    damaged = model_tensors[UNET_CONV].clone()
    damaged[3, 1, 0, 2] = value
    path = replace_weights(folder, model_tensors | {UNET_CONV: damaged})
    checkpoint: Checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.unet()
    assert str(caught.value) == f"{path}: holds weights that are not finite numbers: {UNET_CONV}"
    assert checkpoint.encoder() is not None

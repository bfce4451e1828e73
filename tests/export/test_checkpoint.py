"""Every layout a checkpoint comes in opens as the same model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import SpeechT5HifiGan

from export.bundling import open_checkpoint
from tests.export.layouts import (
    MODEL,
    SMALL_VAE,
    SMALL_VOCODER,
    StateDict,
    assert_same_tensors,
    refusal,
    replace_weights,
    save_pipeline,
)
from train.models.vae import build_vae
from train.models.vocoder import build_vocoder


def test_published_layout(
    folder: Path, model_tensors: StateDict, small_vae: AutoencoderKL, small_vocoder: SpeechT5HifiGan
) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.files.name == MODEL
    assert checkpoint.config.vae.scale_factor == 0.5
    assert "non-commercial" in checkpoint.config.licence
    unet = {name.removeprefix("unet."): value for name, value in model_tensors.items() if name.startswith("unet.")}
    assert_same_tensors(checkpoint.modules.unet.state_dict(), unet)
    encoder = checkpoint.modules.encoder.state_dict()
    assert_same_tensors(encoder, {name: model_tensors[f"vid_fea_extractor.{name}"] for name in encoder})
    text = checkpoint.modules.text
    assert text is not None
    assert text(torch.tensor([[49406, 320, 49407]])).text_embeds.shape == (1, 512)
    assert_same_tensors(checkpoint.modules.vae.state_dict(), small_vae.state_dict())
    assert_same_tensors(checkpoint.modules.vocoder.state_dict(), small_vocoder.state_dict())


def test_modules_are_ready_for_use(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    for module in (
        checkpoint.modules.encoder,
        checkpoint.modules.unet,
        checkpoint.modules.vae,
        checkpoint.modules.vocoder,
    ):
        assert not module.training
        for tensor in (*module.parameters(), *module.buffers()):
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_weights_are_not_copied(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.modules.unet.conv_in.weight.data_ptr() == checkpoint.modules.unet.conv_in.weight.data_ptr()


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
    unet, encoder = checkpoint.modules.unet.state_dict(), checkpoint.modules.encoder.state_dict()
    assert_same_tensors(unet, {name: tensors[f"unet.{name}"] for name in unet})
    assert_same_tensors(encoder, {name: tensors[f"vid_fea_extractor.{name}"] for name in encoder})
    assert {tensor.dtype for tensor in (unet | encoder).values()} == {torch.float32}
    assert (checkpoint.modules.text is None) == (variant is without_text)


def test_model_folder_and_weights_file_can_be_named_directly(folder: Path) -> None:
    for path in (folder / MODEL, folder / MODEL / "pytorch_model_2.bin"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.files.name == MODEL
        assert checkpoint.files.weights == folder / MODEL / "pytorch_model_2.bin"


def test_relative_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / MODEL)
    assert open_checkpoint("pytorch_model_2.bin").files.name == MODEL


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
    checkpoint = open_checkpoint("hf:owner/model", "hf:owner/stage")
    assert checkpoint.files.name == "model"
    assert checkpoint.config.vocoder == SMALL_VOCODER
    assert set(checkpoint.files.sha256()) == {
        "pytorch_model_2.bin", "summary.jsonl", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        "vocoder/config.json", "vocoder/model.safetensors",
    }  # fmt: skip


def test_a_path_that_exists_wins_over_a_hub_id(folder: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_cache(hub, f"ckpt/{MODEL}", {})
    monkeypatch.chdir(folder.parent)
    assert open_checkpoint(f"ckpt/{MODEL}").files.name == MODEL


def test_hub_id_that_is_not_to_be_had(folder: Path, hub: Path) -> None:
    for name in ("hf:owner/unknown", "owner/unknown"):
        message = "is not available from the model hub" if name.startswith("hf:") else "no such file or folder; hf:"
        assert refusal(name).startswith(f"{name}: {message}")
        assert refusal(folder, name).startswith(f"{name}: {message}")


def test_sha256(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    expected = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*(folder / MODEL).iterdir(), folder / "audioldm-s-full.ckpt")
    }
    assert checkpoint.files.sha256() == expected
    assert set(checkpoint.files.first_stage.files) == {"audioldm-s-full.ckpt"}


def test_files_of_one_name_keep_their_own_hash(folder: Path, tmp_path: Path, first_stage_tensors: StateDict) -> None:
    (folder / MODEL / "pytorch_model_2.bin").rename(folder / MODEL / "any.bin")
    (tmp_path / "stage").mkdir()
    torch.save(first_stage_tensors, tmp_path / "stage" / "any.bin")
    checkpoint = open_checkpoint(folder / MODEL / "any.bin", tmp_path / "stage" / "any.bin")
    assert set(checkpoint.files.sha256()) == {"any.bin", "summary.jsonl", "stage/any.bin"}


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

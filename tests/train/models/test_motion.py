"""The motion tower and the time-aligned path: what they see, and when."""

import copy
import math

import numpy as np
import pytest
import torch

from train.models.config import MotionConfig, SystemConfig, UNetConfig, from_dict, to_dict
from train.models.encoder import FrameEncoder, build_encoder
from train.models.motion import (
    EVENT_SCALE,
    NOTE_STD,
    NOTES,
    ONSET_THRESHOLD,
    SPATIAL_HEADS,
    EventHead,
    MotionTower,
    append_differences,
    event_width,
    find_likeliest,
    smooth_labels,
)
from train.models.unet import AlignedUNet, build_unet, resample
from vta_rt.errors import OptionError

MOTION = MotionConfig(channels=(8, 16, 8), dilations=(1, 2), image_size=16, projection=12, tokens_dim=10)
ALIGNED = UNetConfig((16, 16), (2, 2), 10, layers_per_block=1, norm_groups=8, attention=(False, False))


@pytest.fixture(scope="module")
def encoder() -> FrameEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(MOTION).eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith("out.weight"):  # a fresh temporal block is the identity
            torch.nn.init.normal_(parameter)
    return encoder


def frames(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8))


def test_a_token_per_frame(encoder: FrameEncoder) -> None:
    assert encoder(frames(7)).shape == (7, 10)
    assert encoder(frames(1)).shape == (1, 10)


def test_a_batch_of_clips_is_each_clip_alone(encoder: FrameEncoder) -> None:
    clips = torch.stack([frames(5, 1), frames(5, 2)]).permute(0, 1, 4, 2, 3) / 255
    together = encoder.tower(clips)
    for clip, alone in zip(clips, together, strict=True):
        torch.testing.assert_close(encoder.tower(clip), alone)


def test_each_head_projects_what_it_reads_by_weights_of_its_own() -> None:
    """The place is read before it is projected, which costs less than to project the whole map."""
    stream = MotionTower(MOTION).when.eval()
    stream.time = torch.nn.ModuleList()  # what is read, not yet joined
    maps, gazes = torch.randn(1, 3, 16, 2, 2), torch.full((1, 3, SPATIAL_HEADS, 2, 2), -1e4)
    for gaze in range(SPATIAL_HEADS):
        gazes[..., gaze, gaze // 2, gaze % 2] = 1e4  # each rests on one place
    weights = stream.value.weight.unflatten(0, (SPATIAL_HEADS, -1))[..., 0]  # [SPATIAL_HEADS, E / SPATIAL_HEADS, C]
    read = torch.einsum("gec,btcg->btge", weights, maps.flatten(3)).flatten(2) + stream.value.bias
    torch.testing.assert_close(stream.read_maps(maps, gazes), read + stream.anywhere(maps.amax((3, 4))))


def test_changes_look_back_and_ahead() -> None:
    video = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 3, 2, 2) ** 2  # 0, 1, 4, 9
    seen = append_differences(video)[0, :, 2:, 0, 0]  # the last colour, then grey
    expected = [[-0.5, 0.0, 1.0, 3.0], [0.5, 1.0, 3.0, 5.0], [3.5, 3.0, 5.0, 0.0], [8.5, 5.0, 0.0, 0.0]]
    torch.testing.assert_close(seen, torch.tensor(expected))


def test_a_gaze_tells_what_lies_where_it_rests(encoder: FrameEncoder) -> None:
    """The same thing tells the same wherever it lies; what lies elsewhere says nothing."""
    tower = encoder.tower
    assert isinstance(tower, MotionTower)
    tower = copy.deepcopy(tower.when)
    torch.nn.init.zeros_(tower.anywhere.weight)
    maps = torch.randn(1, 6, 16, 2, 2)
    gazes = torch.full((1, 6, SPATIAL_HEADS, 2, 2), -1e4)
    gazes[..., 0, 1] = 0
    moved = maps.flip(4)
    torch.testing.assert_close(tower.read_maps(maps, gazes), tower.read_maps(moved, gazes.flip(4)))
    other = maps.clone()
    other[..., 1, :] += 1
    torch.testing.assert_close(tower.read_maps(maps, gazes), tower.read_maps(other, gazes))
    assert not torch.allclose(tower.read_maps(maps, gazes), tower.read_maps(moved, gazes))


def test_frames_change_tokens_near_them_alone(encoder: FrameEncoder) -> None:
    """A change is seen two frames ahead and one back, shift_channels one further, then goes as far as the dilations reach."""
    before, after = frames(20), frames(20)
    after[10] = frames(1, 3)[0]
    changed = (encoder(before) - encoder(after)).abs().amax(dim=1) > 1e-5
    reach = 1 + sum(MOTION.dilations)
    place = torch.arange(20)
    torch.testing.assert_close(changed, (place >= 10 - 2 - reach) & (place <= 10 + 1 + reach))


def test_the_configuration_comes_back() -> None:
    config = SystemConfig(encoder=MOTION, frame_rate=25.0)
    assert from_dict(to_dict(config)) == config
    with pytest.raises(OptionError, match=r"encoder\.kind is 'eye', one of clip, motion"):
        from_dict({"encoder": {"kind": "eye"}})


def test_steps_and_frame_rate_must_agree() -> None:
    values = to_dict(SystemConfig(encoder=MOTION, unet=UNetConfig(aligned_channels=4), frame_rate=25.0))
    with pytest.raises(OptionError, match=r"tokens_per_step is 0\.08, but 25 frames a second are 1 a latent step"):
        from_dict(values)


def test_resampling_is_exact_at_one_token_a_step() -> None:
    features = torch.randn(2, 5, 3)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    out = resample(features, mask, 6, 1.0)
    torch.testing.assert_close(out[0, :5], features[0])
    torch.testing.assert_close(out[1, :3], features[1, :3])
    assert not out[0, 5:].any()
    assert not out[1, 3:].any()


def test_resampling_interpolates_and_holds() -> None:
    features = torch.tensor([0.0, 1.0, 5.0])[None, :, None]
    mask = torch.tensor([[True, True, False]])
    out = resample(features, mask, 8, 0.25)[0, :, 0]
    torch.testing.assert_close(out, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]))


def test_resampling_skips_tokens_where_there_are_more_than_steps() -> None:
    features = torch.arange(8.0)[None, :, None]
    out = resample(features, torch.ones(1, 8, dtype=torch.bool), 4, 2.0)
    torch.testing.assert_close(out[0, :, 0], torch.tensor([0.0, 2.0, 4.0, 6.0]))


@pytest.mark.parametrize("per_step", [1.0, 0.08])
def test_aligned_unet_hears_each_token_at_its_own_moment(per_step: float) -> None:
    torch.manual_seed(0)
    unet = build_unet(UNetConfig(**{**vars(ALIGNED), "aligned_channels": 4, "tokens_per_step": per_step})).eval()
    assert isinstance(unet, AlignedUNet)
    count = int(32 * per_step)
    latents, timestep, tokens = torch.randn(1, 8, 32, 4), torch.tensor([500]), torch.randn(1, max(count, 2), 10)
    joined: list[torch.Tensor] = []
    unet.conv_in.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        unet(latents, timestep, tokens)
        unet(latents, timestep, tokens * (torch.arange(tokens.shape[1]) > 0)[None, :, None])
    changed = (joined[0] - joined[1]).abs().amax(dim=(0, 1, 3)) > 0  # [T]
    assert changed[0]
    assert not changed[math.ceil(1 / per_step) :].any()
    torch.testing.assert_close(joined[0][:, :8], latents)


def test_aligned_unet_hears_each_token_at_its_own_height() -> None:
    config = {**vars(ALIGNED), "aligned_channels": 3, "aligned_rows": 4, "tokens_per_step": 1.0}
    unet = build_unet(UNetConfig(**config)).eval()
    assert isinstance(unet, AlignedUNet)
    latents, tokens = torch.randn(2, 8, 32, 4), torch.randn(2, 32, 10)
    joined: list[torch.Tensor] = []
    unet.conv_in.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        unet(latents, torch.tensor([500]), tokens)
    features = (tokens @ unet.aligned.weight.T).reshape(2, 32, 3, 4)  # [B, T, channels, rows]
    torch.testing.assert_close(joined[0][:, 8:], features.transpose(1, 2))
    torch.testing.assert_close(joined[0][:, :8], latents)


def test_rows_are_those_of_the_latents() -> None:
    unet = UNetConfig(aligned_channels=4, aligned_rows=5, tokens_per_step=1.0)
    with pytest.raises(OptionError, match=r"unet\.aligned_rows is 5, 1 or the latents' 16 are allowed"):
        from_dict(to_dict(SystemConfig(encoder=MOTION, unet=unet, frame_rate=25.0)))


@pytest.fixture
def ringing() -> AlignedUNet:
    """A time-aligned path that joins tokens over time, trained a little."""
    torch.manual_seed(0)
    config = {**vars(ALIGNED), "aligned_channels": 9, "aligned_rows": 4, "tokens_per_step": 1.0}
    unet = build_unet(UNetConfig(**(config | {"aligned_dilations": (1, 4)}))).eval()
    assert isinstance(unet, AlignedUNet)
    for block in unet.aligned_time:
        torch.nn.init.normal_(block.get_submodule("out").weight)  # a fresh block is the identity
    return unet


def test_dilations_reach_forward() -> None:
    unet = UNetConfig(aligned_channels=4, tokens_per_step=1.0, aligned_dilations=(1, 0))
    with pytest.raises(OptionError, match=r"unet\.aligned_dilations is \[1, 0\], integers of 1 or more"):
        from_dict(to_dict(SystemConfig(encoder=MOTION, unet=unet, frame_rate=25.0)))


def test_zero_tokens_say_nothing(ringing: AlignedUNet) -> None:
    """The unconditional branch of guidance rests on it."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert not ringing.align(torch.zeros(1, 3, 10), mask, 32, 4).any()
    assert ringing.align(torch.ones(1, 3, 10), mask, 32, 4).any()


def test_a_token_reaches_as_far_as_the_dilations(ringing: AlignedUNet) -> None:
    before = torch.randn(1, 32, 10)
    after = before.clone()
    after[0, 16] += 1
    mask = torch.ones(1, 32, dtype=torch.bool)
    with torch.no_grad():
        change = (ringing.align(before, mask, 32, 4) - ringing.align(after, mask, 32, 4)).abs()
    reached = set(torch.arange(32)[change.amax(dim=(0, 1, 3)) > 1e-6].tolist())
    assert reached == {16 + near + far for near in (-1, 0, 1) for far in (-4, 0, 4)}


def test_what_is_aligned_already_may_be_given(ringing: AlignedUNet) -> None:
    latents, at, tokens = torch.randn(1, 8, 32, 4), torch.tensor([500]), torch.randn(1, 32, 10)
    with torch.no_grad():
        aligned = ringing.align(tokens, torch.ones(1, 32, dtype=torch.bool), 32, 4)
        torch.testing.assert_close(
            ringing(latents, at, tokens, aligned=aligned).sample, ringing(latents, at, tokens).sample
        )
        assert not torch.allclose(
            ringing(latents, at, tokens, aligned=2 * aligned).sample, ringing(latents, at, tokens).sample
        )


def test_embeddings_are_shared_out_among_the_gazes() -> None:
    with pytest.raises(OptionError, match=f"projection is 6, the motion tower needs a multiple of {SPATIAL_HEADS}"):
        build_encoder(MotionConfig(channels=(8, 16, 8), projection=6))


def encode_onsets(logits: list[float], material: int = 1, note: float = 7.0) -> torch.Tensor:
    """The events of onsets with these logits, [T, event_width(3)]: all of one material and one note, of level 2."""
    verdict = EventHead(96, 3)
    for layer in (verdict.happens, verdict.is_hit):
        torch.nn.init.zeros_(layer.bias)
        torch.nn.init.eye_(layer.weight)
    when, what = torch.zeros(2, 1, len(logits), 96)
    when[0, :, 0] = torch.tensor(logits)
    when[..., 1:3] = torch.tensor([2.0, 0.5])
    what[..., material] = 0.1  # the likeliest counts, however little it is ahead
    what[..., 3 : 3 + NOTES] = smooth_labels(torch.tensor(note), NOTES).clamp(min=1e-6).log()
    return verdict(when, what)[0, :, : event_width(3)]


def test_of_likely_moments_in_a_row_the_likeliest_counts() -> None:
    onsets = (
        encode_onsets([-4.0, 2.0, 4.0, 3.0, -4.0, ONSET_THRESHOLD - 2, -4.0, ONSET_THRESHOLD + 2])[:, 0] / EVENT_SCALE
    )
    torch.testing.assert_close(onsets, torch.tensor([0.0, 0, 1, 0, 0, 0, 0, 1]))
    assert encode_onsets([-4.0, 3.0, 3.0, -4.0])[:, 0].sum().item() == pytest.approx(
        EVENT_SCALE
    )  # it is one event still


@pytest.mark.parametrize("note", [1.0, 7.0, 7.4, NOTES - 2.0])
def test_an_onset_brings_one_material_one_note_and_its_level_along(note: float) -> None:
    events = encode_onsets([-9.0, 9.0, -9.0], note=note)
    onset, material, notes, level, speed = events.split((1, 3, NOTES, 1, 1), dim=1)
    torch.testing.assert_close(events[[0, 2], :-1], torch.zeros(2, events.shape[1] - 1))
    torch.testing.assert_close(onset[1], torch.tensor([EVENT_SCALE]))
    torch.testing.assert_close(material[1], EVENT_SCALE * torch.eye(3)[1])
    assert sum(find_likeliest(notes[1].clamp(min=1e-6).log())).item() == pytest.approx(note, abs=0.25)
    assert notes[1].sum().item() == pytest.approx(EVENT_SCALE)
    torch.testing.assert_close(level[1], torch.tensor([2 * EVENT_SCALE]))
    torch.testing.assert_close(speed[:, 0], torch.full((3,), 0.5))


def test_of_two_notes_in_doubt_only_the_likelier_counts() -> None:
    doubtful = 0.6 * smooth_labels(torch.tensor(20.0), NOTES) + 0.4 * smooth_labels(torch.tensor(30.0), NOTES)
    assert sum(find_likeliest(doubtful.clamp(min=1e-6).log())).item() == pytest.approx(20.0, abs=0.01)


def test_a_clip_and_its_mirror_image_have_the_same_events() -> None:
    torch.manual_seed(0)
    tower = MotionTower(MotionConfig(channels=(8, 16, 8), projection=88, materials=2, image_size=16)).eval()
    assert tower.verdict is not None
    torch.nn.init.zeros_(tower.verdict.happens.weight)
    tower.verdict.happens.bias.data = torch.tensor(
        [ONSET_THRESHOLD + 1, 0.0, 0.0]
    )  # the first of the moments alike counts
    clip = torch.rand(4, 3, 16, 16)
    events, mirrored = (tower(frames)[0, : event_width(2)] for frames in (clip, clip.flip(-1)))
    assert events[0] == EVENT_SCALE
    torch.testing.assert_close(events, mirrored)


def test_a_note_spreads_over_those_beside_it() -> None:
    shares = smooth_labels(torch.tensor([4.0, 4.5]), NOTES)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    assert shares[0].argmax() == 4
    assert shares[1, 4].item() == pytest.approx(shares[1, 5].item())
    assert (shares[0, 5] / shares[0, 4]).item() == pytest.approx(math.exp(-((1 / NOTE_STD) ** 2) / 2))


def test_an_embedding_has_room_for_the_verdict() -> None:
    with pytest.raises(OptionError, match="projection is 84, to tell 2 materials more than 85 are needed"):
        build_encoder(MotionConfig(channels=(8, 16, 8), projection=84, materials=2))
    tower = build_encoder(MotionConfig(channels=(8, 16, 8), projection=88, materials=2, image_size=16)).tower
    assert tower(torch.rand(5, 3, 16, 16)).shape == (5, 88)

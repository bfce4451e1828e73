from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from train.first_stage.measures import peak_frequency
from train.models.config import MelConfig
from train.models.mel import log_mel
from train.models.sinusoidal import STEPS_PER_FRAME, SinusoidalVocoder

MEL = MelConfig(floor=math.exp(-8))
RATE = MEL.sample_rate


@pytest.fixture(scope="module")
def vocoder() -> SinusoidalVocoder:
    """As it is before anything is learned."""
    torch.manual_seed(0)
    module = SinusoidalVocoder(MEL.bins, MEL.hop)
    module.fit_tables(MEL)
    return module.eval()


def ringing(frequency: float, decay: float, seconds: float = 1.0) -> Tensor:
    times = torch.arange(round(seconds * RATE)) / RATE
    return (0.3 * torch.exp(-decay * times) * torch.sin(2 * math.pi * frequency * times))[None]


@pytest.mark.parametrize("frequency", [150.0, 233.0, 440.0, 523.25, 784.0, 1234.0, 3333.0, 6100.0])
def test_lone_partials_keep_their_pitch_and_level(vocoder: SinusoidalVocoder, frequency: float) -> None:
    wave = ringing(frequency, decay=3.0)
    made = vocoder(log_mel(wave, MEL))[0, 3000:9000].numpy()
    cents = 1200 * abs(math.log2(peak_frequency(made, RATE) / frequency))
    assert cents < 6
    assert made.std() == pytest.approx(wave[0, 3000:9000].std().item(), rel=0.25)


def test_a_mel_that_stands_still_sounds_between_multiples_of_the_frame_rate(vocoder: SinusoidalVocoder) -> None:
    """And it is one line: phases run on from frame to frame."""
    frame = log_mel(ringing(450.0, decay=0.0), MEL)[:, 50:51]
    made = vocoder(frame.expand(1, 800, MEL.bins))[0, RATE // 2 : -RATE // 2].numpy()
    assert peak_frequency(made, RATE) == pytest.approx(450, abs=2)
    power = np.abs(np.fft.rfft(made * np.hanning(len(made)))) ** 2
    peak = power.argmax()
    assert power[peak - 4 : peak + 5].sum() > 0.9 * power.sum()


def test_phase_is_exact_after_minutes(vocoder: SinusoidalVocoder) -> None:
    frames, frequency = 12000, 1234.5678 / RATE
    steady = torch.zeros(1, frames, MEL.bins)
    amplitude = torch.zeros(1, 1, 1, STEPS_PER_FRAME).expand(1, frames, 1, STEPS_PER_FRAME) + 1
    centre, offset = torch.tensor([frequency - 0.01]), 0.01
    made = vocoder.synthesize_partials(centre, steady[..., :1] + offset, amplitude)[0, -1600:].double()
    exact = centre.double().numpy() + np.float64(np.float32(offset))
    sample = exact * np.arange(frames * MEL.hop - 1600, frames * MEL.hop)
    np.testing.assert_allclose(made, np.sin(2 * np.pi * sample), atol=0.01)


def test_noise_has_the_level_asked_for(vocoder: SinusoidalVocoder) -> None:
    for deviation in (0.3, 0.001):
        level = torch.full((1, 100, MEL.bins, STEPS_PER_FRAME), math.log(deviation))
        assert vocoder.synthesize_noise(level).std().item() == pytest.approx(deviation, rel=0.05)


def test_noise_is_where_its_band_is(vocoder: SinusoidalVocoder) -> None:
    level = torch.full((1, 100, MEL.bins, STEPS_PER_FRAME), -12.0)
    level[..., 50:54, :] = -2
    power = np.abs(np.fft.rfft(vocoder.synthesize_noise(level)[0].numpy())) ** 2
    middle = vocoder.centre[52].item()
    share = np.linspace(0, 0.5, len(power))
    assert power[np.abs(share - middle) < 0.06].sum() > 0.95 * power.sum()


def test_a_frame_is_a_hop_and_rows_are_their_own(vocoder: SinusoidalVocoder) -> None:
    mel = torch.randn(2, 37, MEL.bins, generator=torch.Generator().manual_seed(0)) - 4
    wave = vocoder(mel)
    assert wave.shape == (2, 37 * MEL.hop)
    torch.testing.assert_close(vocoder(mel[1:]), wave[1:], rtol=1e-4, atol=1e-5)


def test_amplitude_rises_within_a_frame(vocoder: SinusoidalVocoder) -> None:
    """An attack is as sharp as a part of a frame."""
    amplitude = torch.zeros(1, 10, 1, STEPS_PER_FRAME)
    amplitude[:, 5, :, 2:] = 1
    made = vocoder.synthesize_partials(torch.tensor([0.1]), torch.full((1, 10, 1), 0.01), amplitude)[0].abs()
    part = MEL.hop // STEPS_PER_FRAME
    start = 5 * MEL.hop + part  # where the line to the first part that sounds begins
    assert not made[:start].any()
    assert made[start + part : start + 2 * part].max() > 0.9


def test_state_holds_all_a_vocoder_needs(vocoder: SinusoidalVocoder) -> None:
    with torch.device("meta"):
        other = SinusoidalVocoder(MEL.bins, MEL.hop)
    other.load_state_dict(vocoder.state_dict(), assign=True)
    mel = torch.randn(1, 8, MEL.bins, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(other.eval()(mel), vocoder(mel))


def test_levels_are_learned() -> None:
    """A few steps turn a sound down to a third of what its mel says."""
    torch.manual_seed(0)
    learner = SinusoidalVocoder(MEL.bins, MEL.hop, width=8, layers=1)
    learner.fit_tables(MEL)
    wave = ringing(440.0, decay=3.0, seconds=0.5)
    mel, target = log_mel(wave, MEL), log_mel(wave / 3, MEL)
    distances = []
    with torch.enable_grad():
        optimizer = torch.optim.AdamW(learner.parameters(), 2e-2)
        for _ in range(12):
            distance = (log_mel(learner(mel), MEL) - target).abs().mean()
            optimizer.zero_grad()
            distance.backward()
            optimizer.step()
            distances.append(distance.item())
    assert distances[-1] < 0.6 * distances[0]


def test_hop_must_divide() -> None:
    with pytest.raises(ValueError, match="hop of 162"):
        SinusoidalVocoder(64, 162)


def test_gradients_reach_places_through_controls_only(vocoder: SinusoidalVocoder) -> None:
    mel = log_mel(ringing(440.0, decay=3.0, seconds=0.2), MEL)
    with torch.enable_grad():
        controls = vocoder.predict_controls(mel)
        shift = vocoder.levels.shift.bias
        through_sound = torch.autograd.grad(
            vocoder.synthesize(controls).square().sum(), shift, retain_graph=True, allow_unused=True
        )
        assert through_sound == (None,)
        assert torch.autograd.grad(controls.offset.sum(), shift)[0].abs() > 1

"""A student that takes in one step what its teacher takes in several guided ones: progressive distillation, all at once.

From latents noised to the beginning of one of the student's steps, the teacher goes to its end in smaller DDIM steps,
guided. The data prediction that would have led there in one step is what the student learns without guidance, so that
its steps are those of ``ddim`` with trailing spacing through the unguided graph. Salimans and Ho, arXiv 2202.00512,
section 3 and appendix; guidance folded in as by Meng et al., arXiv 2210.03142.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from vta_rt.sampling import UNGUIDED, Sampling
from vta_rt.schedule import CLEAN, NoiseSchedule, timesteps

SOLVER, SPACING = "ddim", "trailing"
Network = Callable[[Tensor, Tensor], Tensor]
"""Latents [B, C, T, F] and timesteps [B] -> the network's output [B, C, T, F]."""


def student_sampling(steps: int) -> Sampling:
    """How a student of so many steps is sampled."""
    return Sampling(steps, SOLVER, UNGUIDED, SPACING)


def guided_network(unet: Module, tokens: Tensor, mask: Tensor, guidance: float) -> Network:
    """A UNet with classifier-free guidance by tokens [B, N, D] under their mask [B, N]; both branches in one batch."""
    tokens = torch.cat([tokens, torch.zeros_like(tokens)])
    mask = torch.cat([mask, torch.ones_like(mask)])

    def network(latents: Tensor, at: Tensor) -> Tensor:
        output = unet(latents.repeat(2, 1, 1, 1), at.repeat(2), tokens, encoder_attention_mask=mask).sample
        conditional, unconditional = output.float().chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return network


class Distillation:
    """The student's steps and the teacher's within them.

    Args:
        steps: of the student. substeps: of the teacher for each of them, fewer where timesteps run out.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int, substeps: int) -> None:
        self.steps, self.substeps = steps, substeps
        self._total = schedule.train_timesteps
        every = np.arange(CLEAN, schedule.train_timesteps)
        self._alpha = torch.from_numpy(schedule.alpha(every)).float()  # [train_timesteps + 1], clean data first
        self._sigma = torch.from_numpy(schedule.sigma(every)).float()
        self._is_v = schedule.prediction_type == "v_prediction"
        self._stops = torch.from_numpy(np.append(timesteps(schedule, steps, SPACING), CLEAN))  # [steps + 1], falling

    def loss(self, student: Network, teacher: Network, latents: Tensor, noise: Tensor, drawn: Tensor) -> Tensor:
        """Mean squared error of the student's output, a scalar.

        Args:
            teacher: with its guidance.
            latents, noise: [B, C, T, F]. drawn: [B] int64, timesteps of training, each standing for the student's step
                it falls into.
        """
        now, after = self.ends(drawn)
        alpha, sigma = self._level(now)
        noisy = alpha * latents + sigma * noise
        target = self.target(teacher, noisy, now, after)
        prediction = self._data(student(noisy, now).float(), noisy, now)
        # In the data, an error of v is sigma times as large (an error of the noise, sigma / alpha times).
        scale = sigma if self._is_v else sigma / alpha
        return ((prediction - target) / scale).square().mean()

    def ends(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps at which the student's step begins and ends, [B] each; the last one ends at clean data."""
        stops = self._stops.to(drawn.device)
        place = (self._total - 1 - drawn) * self.steps // self._total
        return stops[place], stops[place + 1]

    @torch.no_grad()
    def target(self, teacher: Network, noisy: Tensor, now: Tensor, after: Tensor) -> Tensor:
        """The data prediction by which one DDIM step leads where the teacher's several do, [B, C, T, F]."""
        state, place = noisy, now
        for part in range(1, self.substeps + 1):
            following = now + (after - now) * part // self.substeps
            data = self._data(teacher(state, place).float(), state, place)
            state = self._step(data, state, place, following)
            place = following
        (alpha, sigma), (alpha_after, sigma_after) = self._level(now), self._level(after)
        ratio = sigma_after / sigma
        return (state - ratio * noisy) / (alpha_after - ratio * alpha)

    def _step(self, data: Tensor, state: Tensor, now: Tensor, after: Tensor) -> Tensor:
        (alpha, sigma), (alpha_after, sigma_after) = self._level(now), self._level(after)
        return alpha_after * data + sigma_after / sigma * (state - alpha * data)

    def _data(self, output: Tensor, state: Tensor, now: Tensor) -> Tensor:
        alpha, sigma = self._level(now)
        return alpha * state - sigma * output if self._is_v else (state - sigma * output) / alpha

    def _level(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma [B, 1, 1, 1] at timesteps [B]."""
        shape = (-1, 1, 1, 1)
        alpha, sigma = self._alpha.to(at.device), self._sigma.to(at.device)
        return alpha[at + 1].view(shape), sigma[at + 1].view(shape)

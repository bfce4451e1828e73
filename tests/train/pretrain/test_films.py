"""Windows of films: pictures, sound and labels of the same moments."""

from dataclasses import replace

import numpy as np
import torch

from train.config import SystemConfig
from train.mel import log_mel
from train.pretrain.films import Alteration, Reel, pictures_of


def test_windows_of_pictures_sound_and_labels_belong_together(system: SystemConfig, reels: list[Reel]) -> None:
    """Where a frame is lit, its mel frames are loud; a margin keeps the window's ends as they are in the whole film."""
    reel = reels[0]
    pictures, mel, labels = reel.batch(6, 12, np.random.default_rng(0))
    assert pictures.shape == (6, 12, 3, 16, 16)
    lit = pictures[:, :, 1].mean((2, 3)) > 0.5
    assert labels is not None
    np.testing.assert_array_equal(lit.numpy(), labels.onset > 0)
    loud = mel.unflatten(1, (12, 4)).mean((2, 3)) > -4
    assert (lit == loud).float().mean() > 0.9  # an analysis window reaches over into the next frame
    every = [log_mel(torch.from_numpy(reel.films.wave(index))[None], system.mel)[0] for index in range(len(reel.films))]
    distances = sorted(
        (mel[0] - film[start : start + 48]).abs().max().item() for film in every for start in range(0, 128 - 47, 4)
    )
    assert distances[0] < 1e-4 < distances[1]


def test_a_whole_film(reels: list[Reel]) -> None:
    pictures, mel, labels = reels[0].whole(2)
    assert (pictures.shape, mel.shape) == ((1, 32, 3, 16, 16), (1, 128, 64))
    assert labels is not None
    assert labels.onset.shape == (1, 32)


def test_a_film_that_ends_early_stands_still(reels: list[Reel]) -> None:
    films = reels[0].films
    late = pictures_of(films, 0, 30, 4)
    torch.testing.assert_close(late[:2], pictures_of(films, 0, 30, 2))
    torch.testing.assert_close(late[2:], late[1:2].expand(2, -1, -1, -1))
    torch.testing.assert_close(pictures_of(films, 0, 40, 2), late[1:2].expand(2, -1, -1, -1))


def test_films_are_altered_as_a_whole_and_never_scaled(reels: list[Reel]) -> None:
    pictures = torch.zeros(3, 3, 20, 20)
    pictures[:, :, 8:12, 4:12] = 1.0
    assert reels[0].labels is not None
    labels = reels[0].labels[0].part(0, 3)
    labels = replace(labels, place=np.full_like(labels.place, (8.0 / 20, 0.5)))
    places = set()
    for seed in range(40):
        alteration = Alteration.draw(np.random.default_rng(seed))
        film = alteration.pictures(pictures)
        torch.testing.assert_close(film[0], film[2])
        shape = film[0, 0] > film[0, 0].mean()
        assert (shape.any(1).sum(), shape.any(0).sum()) == (4, 8)
        rows, columns = shape.nonzero(as_tuple=True)
        centre = (columns.float().mean().item() + 0.5) / 20, (rows.float().mean().item() + 0.5) / 20
        np.testing.assert_allclose(alteration.labels(labels, 20).place[2, 1], centre, atol=1e-6)
        places.add(centre)
    assert len(places) > 20

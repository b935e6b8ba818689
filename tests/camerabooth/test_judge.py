import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from camerabooth.backbones.interface import Condition, Prepared, Sources
from camerabooth.judge import CHOICE_DRAWS, Judged, errors_on_object, leave_one_out, surprise
from tests.tiny import tiny_model


def test_poses_are_better_by_the_sum_of_both_judges_logarithms():
    errors, cameras = 0.1 + torch.rand(2, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 3)
    start = Judged(cameras, errors, synthesis=0.5)
    for factor, synthesis, better in ((1.0, 0.49, True), (1.0, 0.5, False), (1.5, 0.3, True), (1.5, 0.4, False)):
        assert Judged(cameras, errors * factor, synthesis).better_than(start) == better


def test_views_are_judged_by_what_the_others_lead_to():
    model, images = tiny_model(16), torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    cameras = torch.tensor([[0.2, 0.0, 1.8], [0.3, 1.0, 1.8], [0.1, -1.2, 1.9]])
    with torch.no_grad():
        means = []
        for view, rest in enumerate(([1, 2], [0, 2], [0, 1])):
            sources = model.embed_sources(images[rest], cameras[rest])
            means.append(model.conditional_mean(sources, cameras[view : view + 1], torch.Generator()))
    expected = errors_on_object(torch.cat(means), images)
    torch.testing.assert_close(leave_one_out(model, images, cameras), expected[None])
    shown = torch.maximum(means[1][0, 3], images[1, 3])
    whole = sum(torch.maximum(mean[0, 3], image[3]).sum() for mean, image in zip(means, images))
    own = ((means[1][0] - images[1]).square().mean(0) * shown).sum() / whole * 3
    assert expected[1].item() == pytest.approx(own.item(), rel=1e-4)


def test_models_that_predict_noise_are_asked_at_their_own_time_steps():
    asked = []

    def error(latents, condition, timesteps, noise):
        asked.extend(timesteps.unique().tolist())
        return torch.full((len(latents),), 0.5)

    model = SimpleNamespace(
        image_size=8,
        settings=SimpleNamespace(energy_of="noise", energy_timesteps=(200, 350)),
        prepare=lambda images: Prepared(images),
        embed=lambda prepared, cameras: Sources(prepared.latents[None], cameras[None], prepared.latents[None]),
        condition=lambda sources, cameras: Condition(cameras),
        energy=error,
    )
    photos = [np.full((8, 8, 4), 255, np.uint8)] * 3
    assert surprise(model, photos, torch.tensor([0.0, 0.0, 1.8]).repeat(3, 1)) == pytest.approx(math.log(0.5))
    assert asked == [step for step in (200, 350) for _ in range(CHOICE_DRAWS)]

from types import SimpleNamespace

import pytest
import torch

from camerabooth import judge
from camerabooth.backbones.interface import Condition, Prepared, Sources
from camerabooth.judge import Judged


def test_better_poses_clearly_convince_both_judges():
    noise = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
    start = Judged(torch.zeros(5, 3), 1 + noise, synthesis=0.5)
    for drop, loss, better in ((0.5, 0.3, True), (0.5, 0.4, False), (0.0, 0.3, False), (-0.5, 0.3, False)):
        assert Judged(torch.zeros(5, 3), 1 + noise - drop, loss).better_than(start) == better


@pytest.mark.parametrize(
    ("kind", "views", "expected"),
    [("clean", 3, [400, 500, 600]), ("clean", 2, [700, 850, 999]), ("noise", 3, [200, 350]), ("noise", 2, [200, 350])],
)
def test_energies_are_taken_where_they_tell_for_the_model(kind, views, expected):
    """Near pure noise a model that predicts ε nearly knows it, whatever the cameras."""
    asked = []

    def error(latents, condition, timesteps, noise):
        asked.extend(timesteps.unique().tolist())
        return torch.full((len(latents),), 0.5)

    model = SimpleNamespace(
        settings=SimpleNamespace(energy_of=kind, energy_timesteps=(200, 350)),
        prepare=lambda images: Prepared(images),
        embed=lambda prepared, cameras: Sources(prepared.latents[None], cameras[None], prepared.latents[None]),
        condition=lambda sources, cameras: Condition(cameras),
        energy=error,
    )
    assert judge.energy(model, torch.rand(views, 4, 8, 8), torch.zeros(views, 3)) == 0.5
    assert asked == [step for step in expected for _ in range(judge.CHOICE_DRAWS)]

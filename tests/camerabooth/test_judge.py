import torch

from camerabooth.judge import Judged


def test_better_poses_clearly_convince_both_judges():
    noise = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
    start = Judged(torch.zeros(5, 3), 1 + noise, synthesis=0.5)
    for drop, loss, better in ((0.5, 0.3, True), (0.5, 0.4, False), (0.0, 0.3, False), (-0.5, 0.3, False)):
        assert Judged(torch.zeros(5, 3), 1 + noise - drop, loss).better_than(start) == better

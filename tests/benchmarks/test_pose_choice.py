"""The fit of stage 1's sharpnesses, on sets whose evidence is known."""

import math

import pytest
import torch

from benchmarks.pose_choice import fit, likelihood, log_weights

CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.3, 1.5, 1.8], [0.3, 3.0, 1.8]])


def recorded(right: bool) -> dict:
    """Two configurations, the first of which has smaller errors and is the truth or is not."""
    turned = CAMERAS.clone()
    turned[2, 1] += math.pi
    return {
        "truth": CAMERAS if right else turned,
        "cameras": torch.stack([CAMERAS, turned]),
        "network": CAMERAS,
        "errors": torch.tensor([[0.02] * 3, [0.04] * 3]),
        "network_log_probability": torch.zeros(2),
        "synthesis_loss": torch.tensor([0.1, 0.1]),
        "seconds": 1.0,
    }


def test_weights_are_sharp_where_errors_can_be_trusted():
    trusted, doubtful = [recorded(True)] * 4, [recorded(True), recorded(False)]
    told = log_weights(trusted[0], (0.3, 2.0, 6.0))
    assert told.tolist() == pytest.approx([0, -6 * math.log(2)], abs=1e-5)
    sharp, flat = (0.3, 2.0, 16.0), (0.3, 2.0, 0.0)
    assert likelihood(trusted, sharp) < likelihood(trusted, flat)
    assert likelihood(doubtful, sharp) > likelihood(doubtful, flat)


def test_the_fit_prints_the_choice_of_each_set(capsys):
    fit({"toy_000_3": recorded(True), "toy_001_3": recorded(True)})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 7 and "choice   0.0°" in said[-1] and "right 100%" in said[-1]
    assert float(said[0].split()[2]) < float(said[3].split()[3]), "without the errors it is less likely"

import math

import torch

from relposepp.correlation import azimuth_labels
from relposepp.search import (
    agreement,
    azimuth_deviations,
    configuration_scores,
    coordinate_ascent,
    distinct,
    joint_elevations,
    quarter_turns,
    search,
    spanning_tree,
)

BINS = 72


def pair_distributions(azimuths: torch.Tensor, outliers: list[tuple[int, int, float]] = ()) -> torch.Tensor:
    """Log-probabilities that peak at the differences of azimuths [N]; some pairs peak elsewhere."""
    delta = azimuths - azimuths[:, None]
    for first, second, angle in outliers:
        delta[first, second], delta[second, first] = angle, -angle
    probabilities = 0.9 * azimuth_labels(delta, BINS, math.radians(8)) + 0.1 / BINS
    return probabilities.log() * (1 - torch.eye(len(azimuths)))[..., None]


def angle_error(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    difference = estimate - truth + truth[0]
    return (torch.remainder(difference + math.pi, 2 * math.pi) - math.pi).abs().max().item()


def test_spanning_tree_is_maximal():
    weights = torch.tensor([[0, 5, 1, 2], [5, 0, 4, 1], [1, 4, 0, 3], [2, 1, 3, 0]]).float()
    assert spanning_tree(weights) == [(0, 1), (1, 2), (2, 3)]


def test_consistent_pairs_are_solved_by_the_tree_alone():
    azimuths = torch.tensor([0.3, 1.5, -2.0, 2.9, -0.9])
    found, scores = search(pair_distributions(azimuths), keep=1, restarts=0)
    assert angle_error(found[0], azimuths) < math.radians(5) and len(scores) == 1


def test_outlying_pairs_are_outvoted():
    azimuths = torch.tensor([0.0, 1.0, 2.2, -2.5, -1.2])
    log_probabilities = pair_distributions(azimuths, [(0, 3, 0.5), (1, 2, -1.5), (2, 4, 0.1)])
    found, scores = search(log_probabilities, keep=8, generator=torch.Generator().manual_seed(0))
    assert angle_error(found[0], azimuths) < math.radians(5)
    assert (scores.diff() <= 0).all() and (found[:, 0] == 0).all()
    assert distinct(found, 8, math.radians(20)) == list(range(len(found)))


def test_both_answers_of_an_ambiguous_view_are_kept():
    azimuths = torch.tensor([0.0, 1.0, 2.2, -1.2])
    flipped = azimuths + torch.tensor([0, 0, math.pi, 0])
    both = torch.logaddexp(pair_distributions(azimuths), pair_distributions(flipped)) - math.log(2)
    both = both * (1 - torch.eye(4))[..., None]
    found, _ = search(both, keep=2, generator=torch.Generator().manual_seed(0))
    assert sorted(min(angle_error(f, a) for f in found) < 0.1 for a in (azimuths, flipped)) == [True, True]


def test_ascent_never_lowers_the_score():
    generator = torch.Generator().manual_seed(4)
    upper = torch.randn(5, 5, BINS, generator=generator).log_softmax(-1)
    mask = torch.triu(torch.ones(5, 5), 1)[..., None]
    log_probabilities = upper * mask + (upper * mask).transpose(0, 1).flip(-1).roll(1, -1)
    starts = torch.randint(BINS, (16, 5), generator=generator)
    ends = coordinate_ascent(log_probabilities, starts)
    before, after = (configuration_scores(log_probabilities, bins) for bins in (starts, ends))
    assert (after >= before - 1e-4).all() and (after > before).any()


def test_quarter_turns_hold_every_turned_view():
    azimuths = torch.tensor([[0.0, 1.0, 2.5]])
    turns = quarter_turns(pair_distributions(azimuths[0]), azimuths, keep=100)
    assert turns.shape == (15, 3) and (turns[:, 0] == 0).all()
    expected = azimuths[0] + torch.tensor([0, math.pi / 2, math.pi])
    assert min(angle_error(turn, expected) for turn in turns) < math.radians(3)
    many = quarter_turns(pair_distributions(torch.arange(8.0)), torch.arange(8.0)[None], keep=1000)
    assert len(many) == 7 * 3 + 21 * 9


def test_pairs_decide_where_a_view_is_unsure_of_its_elevation():
    heads = torch.log(torch.tensor([[0.98, 0.01, 0.01], [0.3, 0.4, 0.3], [0.01, 0.01, 0.98]]))
    # Views 0 and 2 both say that view 1 is at its third elevation.
    evidence = torch.zeros(3, 3, 3, 3)
    evidence[0, 1, 0, 2] = evidence[1, 2, 2, 2] = 6
    evidence = torch.maximum(evidence, evidence.permute(1, 0, 3, 2))
    belief = joint_elevations(heads, evidence)
    torch.testing.assert_close(belief.sum(1), torch.ones(3))
    assert belief.argmax(1).tolist() == [0, 2, 2] and belief[1, 2] > 0.9
    torch.testing.assert_close(joint_elevations(heads, torch.zeros(3, 3, 3, 3)), heads.exp())


def test_deviation_of_a_wrapped_gaussian():
    azimuths = torch.tensor([0.0, 1.0])
    labels = azimuth_labels(azimuths - azimuths[:, None], BINS, math.radians(10))
    log_probabilities = labels.clamp(min=1e-20).log() * (1 - torch.eye(2))[..., None]
    deviations = azimuth_deviations(log_probabilities, azimuths).rad2deg()
    torch.testing.assert_close(deviations, torch.full((2,), 10.0), rtol=1e-4, atol=0)


def test_agreement_is_the_weight_of_like_configurations():
    azimuths = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.1, 2.0 + math.pi], [0.0, -2.0, 2.1]])
    weights = torch.tensor([0.5, 0.3, 0.2])
    # View 2's two pairs are both wrong in the second configuration, one of them in the third.
    expected = torch.tensor([0.5 + 0.3 / 2 + 0.2 / 2, 0.5 + 0.3 / 2, 0.5 + 0.2 / 2])
    level = torch.zeros(3, 3, 3)
    level[..., 1] = azimuths
    torch.testing.assert_close(agreement(level, weights.log()), expected)
    everything_turned = level + torch.tensor([0, 0.7, 0])
    torch.testing.assert_close(agreement(everything_turned, weights.log()), expected)
    lower = level.clone()
    lower[2, 2, 0] = 0.5
    torch.testing.assert_close(agreement(lower, weights.log()), expected - torch.tensor([0.1, 0, 0.1]))

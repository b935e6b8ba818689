"""Cameras by RelPose++: closed forms of its geometry and inference, and stage 1 with a shallow checkpoint."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from relposepp import infer
from relposepp import published_poses as pp
from relposepp.decide import estimate
from relposepp.infer import CONFIG, published_prediction
from relposepp.model import IMAGE_SIZE, ModelConfig, RelativePose
from relposepp.proposals import propose, uninformed
from relposepp.published import PublishedRelPose
from relposepp.published_poses import Effort, Pairs, global_rotations, median_cameras, random_rotations, to_spherical
from sap3d.cameras.maths import pairwise_rotation_errors, rotation_angle, spherical_to_w2c, wrap_angle
from sap3d.errors import UserError
from sap3d.images import to_tensor, to_uint8, turn

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import published_weights as weights  # noqa: E402


def cameras(*degrees: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(degrees) * torch.tensor([math.pi / 180, math.pi / 180, 1.0])


def test_known_cameras_are_recovered():
    # View 0 where SAP3D takes it to be, at azimuth −90°; the elevations differ.
    truth = cameras((20, -90, 1.8), (35, 30, 1.6), (-10, 170, 2.1), (20, -60, 1.5))
    w2c = spherical_to_w2c(truth)
    rotations = w2c[0, :, :3].T @ w2c[..., :3]
    for whole in (torch.eye(3), random_rotations(1, torch.Generator().manual_seed(2))[0]):  # turns of the whole set
        found = to_spherical(whole @ rotations, w2c[..., 3], math.radians(20))
        assert torch.allclose(found[:, 0], truth[:, 0], atol=1e-5)
        assert torch.allclose(found[:, 1], wrap_angle(truth[:, 1] - truth[0, 1]), atol=1e-5)
        assert torch.allclose(found[:, 2], truth[:, 2], atol=1e-5)


def test_level_cameras_are_recovered_from_any_azimuth():
    truth = cameras((0, 57, 1.5), (0, -160, 1.9), (0, 100, 2.2))
    w2c = spherical_to_w2c(truth)
    found = to_spherical(w2c[0, :, :3].T @ w2c[..., :3], w2c[..., 3], math.radians(30))
    assert pairwise_rotation_errors(found - torch.tensor([math.radians(30), 0, 0]), truth).max() < 1e-3
    assert torch.allclose(found[:, 0], torch.full((3,), math.radians(30)), atol=1e-5)


def peaked_energies(truth: torch.Tensor, outlier: tuple[int, int, torch.Tensor] | None = None):
    """Energies that fall with the angle from the true relative rotations [N, 3, 3], but for one pair that is wrong."""

    def energies(i: int, j: int, rotations: torch.Tensor) -> torch.Tensor:
        assert i < j  # the other order's rotations are transposed, as in training
        if outlier and (i, j) == outlier[:2]:  # sure of itself, so it enters the tree
            return -14 * rotation_angle(outlier[2].T @ rotations)
        return -10 * rotation_angle((truth[i].T @ truth[j]).T @ rotations)

    return energies


TRUTH = spherical_to_w2c(cameras((20, 0, 1), (35, 80, 1), (-10, 200, 1), (50, 310, 1)))[..., :3]
ORDERED = [(i, j) for i in range(4) for j in range(4) if i != j]


def rotation_errors(rotations: torch.Tensor) -> torch.Tensor:
    return rotation_angle((TRUTH[0].T @ TRUTH).transpose(-1, -2) @ rotations)


def test_the_tree_alone_composes_consistent_pairs():
    effort = Effort(tree_samples=20_000, ascent_samples=0, ascent_steps=0)
    rotations, *_ = global_rotations(peaked_energies(TRUTH), 4, torch.Generator().manual_seed(6), effort)
    assert rotation_errors(rotations).max() < math.radians(15)


def test_global_inference_finds_the_truth_against_an_outlier():
    generator = torch.Generator().manual_seed(3)
    wrong = random_rotations(1, generator)[0]
    energies = peaked_energies(TRUTH, (0, 2, wrong))
    effort = Effort(tree_samples=20_000, ascent_samples=6_000, ascent_steps=24)
    rotations, total, pairs, scores = global_rotations(energies, 4, generator, effort)
    assert rotation_errors(rotations).max() < math.radians(4)
    assert torch.equal(scores, scores.T) and scores[0, 2] == max(scores[pair] for pair in ORDERED)
    assert rotation_angle(wrong.T @ pairs[0, 2]) < math.radians(8)  # the evidence keeps what the pair said
    assert rotation_angle((TRUTH[1].T @ TRUTH[3]).T @ pairs[1, 3]) < math.radians(8)
    expected = 2 * sum(energies(i, j, (rotations[i].T @ rotations[j])[None])[0] for i, j in ORDERED if i < j)
    assert torch.allclose(total, expected, atol=1e-3)


def test_median_of_runs_is_not_cut_at_half_a_turn():
    runs = torch.stack([cameras((10, 0, 1), (20, azimuth, 2)) for azimuth in (179, -179, 175)])
    assert torch.allclose(median_cameras(runs), cameras((10, 0, 1), (20, 179, 2)), atol=1e-5)


# What it says of views.

SHORT = Effort(tree_samples=200, ascent_samples=100, ascent_steps=3, runs=3)


@pytest.fixture(scope="module")
def model() -> PublishedRelPose:
    torch.manual_seed(0)
    return PublishedRelPose(blocks=(1, 1, 1, 1), depth=1).eval().requires_grad_(False)


@pytest.fixture
def views() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    return images, torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.2, 1.2]])


def test_estimate_returns_ranked_runs_and_evidence(model, views):
    def estimate():
        generator = torch.Generator().manual_seed(5)
        return pp.estimate_published(pp.compare_pairs(model, *views, generator, 200), generator, 0.4, SHORT)

    poses = estimate()
    assert poses.cameras.shape == (3, 3) and poses.runs.shape == (3, 3, 3) and poses.scores.shape == (3,)
    assert torch.allclose(poses.cameras[0, :2], torch.tensor([0.4, 0.0]), atol=1e-6)
    assert (poses.scores.diff() <= 0).all() and poses.scores.isfinite().all()
    assert poses.pair_rotations.shape == (3, 3, 3, 3) and (poses.pair_scores <= 0).all()
    assert torch.allclose(poses.rotations[0], torch.eye(3), atol=1e-5)
    assert torch.equal(estimate().runs, poses.runs)
    with pytest.raises(UserError, match="not 1"):
        pp.compare_pairs(model, *(part[:1] for part in views), torch.Generator(), 10)


def test_energies_are_of_features_that_have_seen_all_views(model, views):
    """RelPose++'s: one set of all views, a pair in the order of its numbers, R transposed for the other."""
    effort, generator = Effort(tree_samples=200, ascent_samples=0, ascent_steps=0, runs=1), torch.Generator()
    poses = pp.estimate_published(pp.compare_pairs(model, *views, generator, 200), generator, 0.4, effort)
    features = model.attend(model.tokens(*views))
    total = sum(
        2 * model.pair_energies(features[i], features[j], (poses.rotations[i].T @ poses.rotations[j])[None])[0]
        for i, j in ((0, 1), (0, 2), (1, 2))
    )
    pair = model.attend(model.tokens(*(part[:2] for part in views)))
    torch.testing.assert_close(poses.scores[0], total, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(pair[0], features[0], atol=1e-2), "a pair by itself would be scored otherwise"


def known_pairs(truth: torch.Tensor) -> Pairs:
    rotations = pp.world_rotations(truth)
    return Pairs(peaked_energies(rotations), torch.zeros(len(truth), len(truth)), spherical_to_w2c(truth)[..., 3])


def test_densities_and_azimuths_are_highest_at_the_truth():
    truth = cameras((20, 0, 1.8), (35, 80, 1.6), (-10, 200, 2.1))
    turned = truth.repeat(3, 1, 1)
    turned[1, 1, 1] += math.radians(30)
    turned[2, :, 0] += math.radians(10)  # of all alike
    pairs = known_pairs(truth)
    densities = pairs.log_densities(turned)
    rotations = pp.world_rotations(turned[1])
    expected = sum(pairs.energies(i, j, (rotations[i].T @ rotations[j])[None])[0] for i, j in ((0, 1), (0, 2), (1, 2)))
    torch.testing.assert_close(densities, torch.stack([torch.zeros(()), expected, torch.zeros(())]), atol=0.02, rtol=0)
    beyond = torch.cat([turned, torch.ones(3, 3, 2)], -1)  # what a camera has besides makes no difference
    torch.testing.assert_close(pairs.log_densities(beyond), densities)

    table = pairs.azimuths(truth)
    degrees = table.argmax(-1) * 5
    assert degrees[0, 1] == 80 and degrees[0, 2] == 200 and degrees[1, 2] == 120 and degrees[2, 1] == 240
    torch.testing.assert_close(table.exp().sum(-1)[~torch.eye(3, dtype=torch.bool)], torch.ones(6))


def test_densities_are_against_that_of_all_rotations_alike(model, views):
    """Their mean over uniform rotations is 1, whatever is added to the energies."""
    pairs = pp.compare_pairs(model, *views, torch.Generator().manual_seed(0), 4000)
    rotations = random_rotations(4000, torch.Generator().manual_seed(1))
    for i, j in ((0, 1), (1, 2)):
        density = (pairs.energies(i, j, rotations) - pairs.means[i, j]).exp()
        assert abs(density.mean() - 1) < 0.05
    assert pairs.means[1, 0] == 0


def test_tilted_photos_are_seen_upright(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    weights.write_relposepp(tmp_path / "relposepp.pth")
    blobs = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    views = torch.nn.functional.interpolate(blobs, size=96, mode="bicubic", align_corners=True).clamp(0, 1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    mask = ((x / 0.4) ** 2 + (y / 0.6) ** 2 < 1).float().expand(2, 1, 96, 96)
    views, rolls = torch.cat([views * mask + 1 - mask, mask], 1), torch.tensor([0.4, -0.2])
    seen = []
    monkeypatch.setattr(infer, "predict_published", lambda model, images, *_: seen.append(images))
    config = OmegaConf.merge(OmegaConf.load(CONFIG), {"checkpoint": str(tmp_path / "relposepp.pth")})
    held = SimpleNamespace(likeliest_rolls=rolls)
    for photos, how in ((views, None), (turn(views, rolls), held), (turn(views, rolls), None)):
        rgba = list(to_uint8(photos.permute(0, 2, 3, 1)))
        published_prediction(rgba, uninformed(2), config, torch.device("cpu"), 0, how)
    upright, turned_back, tilted = seen
    assert (turned_back - upright).abs().mean() < 0.25 * (tilted - upright).abs().mean()


@pytest.mark.parametrize("sign", [1, -1])
def test_stage_1_ranks_by_the_published_networks_own_scores(tmp_path, monkeypatch, sign):
    """Of a checkpoint and of one whose energies have the other sign, which prefers what the first does not."""
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    path = tmp_path / "relposepp.pth"
    weights.write_relposepp(path)
    checkpoint = torch.load(path)
    checkpoint["state_dict"]["module.layers.4.weight"] *= sign * 1000
    torch.save(checkpoint, path)
    photos = torch.rand(3, 96, 96, 4, generator=torch.Generator().manual_seed(6))
    photos[..., 3] = 1
    photos = list(to_uint8(photos))
    config = OmegaConf.merge(
        OmegaConf.load(CONFIG), {"checkpoint": str(path), "published": vars(SHORT), "verify": False, "hypotheses": 6}
    )
    torch.manual_seed(0)
    embedded = RelativePose(ModelConfig(width=16, blocks=1)).eval().requires_grad_(False)
    images = to_tensor(photos, IMAGE_SIZE)
    own = embedded.predict(images)
    prediction = published_prediction(photos, own, config, torch.device("cpu"), 0)
    poses = estimate(embedded, photos, config, 0, prediction)
    likely = poses.evidence["network_log_probability"]
    torch.testing.assert_close(likely, prediction.pairs.log_densities(poses.cameras))
    assert (likely.diff() <= 0).all() and likely[0] > likely[-1] + 0.1, "best first"
    assert poses.network[0, 0] == own.elevation[0] and torch.equal(poses.network, prediction.configurations[0])
    assert any(torch.equal(poses.network, cameras) for cameras in poses.cameras)
    proposed = propose(prediction, 40, torch.Generator().manual_seed(0))
    assert torch.equal(proposed[0], poses.network) and len(proposed) == 40, "and others than its runs are verified"
    assert not torch.equal(prediction.azimuths, uninformed(3).azimuths)

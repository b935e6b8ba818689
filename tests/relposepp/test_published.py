import hashlib
import math

import pytest
import torch

from relposepp.published import (
    RECOMPUTED,
    Effort,
    PublishedRelPose,
    crop_views,
    estimate_published,
    global_rotations,
    load_published,
    median_cameras,
    random_rotations,
    to_spherical,
)
from sap3d.cameras.maths import pairwise_rotation_errors, rotation_angle, spherical_to_w2c, wrap_angle
from sap3d.errors import UserError

CPU = torch.device("cpu")
# Of the published checkpoint's 279 lines "name<tab>axb…", sorted, without the table of positions, which is recomputed.
NAMES_SHA256 = "001cf0fef9975a9917156b64067e6d19ce341fe34fbe1f22cebe26eeaf1cae2b"


def meta_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return PublishedRelPose().state_dict()


@pytest.fixture(scope="module")
def model() -> PublishedRelPose:
    torch.manual_seed(0)
    return PublishedRelPose().eval().requires_grad_(False)


def checkpoint() -> dict:
    """A checkpoint in the original's layout; each tensor repeats one number, so that its file stays small."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in meta_state().items()} | {RECOMPUTED: (1, 5, 2096)}
    state = {f"module.{name}": torch.rand(1, generator=generator).expand(shape) for name, shape in shapes.items()}
    return {"state_dict": state, "iteration": 105000, "epoch": 3, "elapsed": 1.5, "optimizer": {"state": {}}}


def cameras(*degrees: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(degrees) * torch.tensor([math.pi / 180, math.pi / 180, 1.0])


def test_names_and_shapes_are_the_checkpoints():
    lines = sorted(f"{name}\t{'x'.join(map(str, value.shape))}" for name, value in meta_state().items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NAMES_SHA256, "\n".join(lines)


def test_a_checkpoint_loads(tmp_path):
    path, content = tmp_path / "ckpt.pth", checkpoint()
    torch.save(content, path)
    state = load_published(path, CPU).state_dict()
    assert all(torch.equal(value, content["state_dict"][f"module.{name}"]) for name, value in state.items())


def test_checkpoint_errors_are_one_line(tmp_path):
    path = tmp_path / "ckpt.pth"

    def message() -> str:
        with pytest.raises(UserError) as caught:
            load_published(path, CPU)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    assert "drive.google.com" in message() and "put ckpt_000105000.pth there" in message()
    content = checkpoint()
    state = content["state_dict"]
    state["module.embed_query.other"] = state.pop("module.embed_query.bias")
    torch.save(content, path)
    assert "embed_query.bias is missing" in message()
    state["module.embed_query.bias"] = torch.zeros(1).expand(256)
    torch.save(content, path)
    assert "embed_query.other is not of this model" in message()
    del state["module.embed_query.other"]
    state["module.layers.4.weight"] = torch.zeros(2, 256)
    torch.save(content, path)
    assert "layers.4.weight has shape (2, 256), not (1, 256)" in message()
    torch.save({"model": {}}, path)
    assert "state_dict" in message()
    path.write_bytes(b"not a checkpoint")
    assert "not a RelPose++ checkpoint" in message()


@pytest.mark.parametrize("views", [2, 3])
def test_features_energies_and_translations(model, views):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(views, 3, 64, 64, generator=generator)
    tokens = model.tokens(images, torch.tensor([[0.0, 0.0, 2.0]]).expand(views, 3))
    features = model.attend(tokens)
    assert features.shape == tokens.shape == (views, 2096)
    # A set is not a batch: what a view's feature is depends on the others of its set, and on nothing else.
    batch = model.attend(torch.stack([tokens, tokens.flip(0)]))
    assert torch.allclose(batch[0], features, atol=1e-4) and not torch.allclose(batch[1].flip(0), features, atol=1e-2)
    energies = model.pair_energies(features[0], features[1], random_rotations(7, generator))
    assert energies.shape == (7,) and energies.std() > 1e-6
    translations = model.translations(features)
    assert translations.shape == (views, 3) and translations.isfinite().all()


def test_encodings(model):
    angle = torch.tensor([[0.3, -0.2, 1.1]])
    expected = [f(2**k * a) for f in (math.sin, math.cos) for a in angle[0].tolist() for k in range(8)]
    assert torch.allclose(model.encode(angle)[0], torch.tensor(expected), atol=1e-4)


def test_crops_and_their_parameters():
    views = torch.ones(2, 4, 100, 100)
    views[:, 3] = 0
    views[0, 3, 30:50, 40:80] = 1  # 40 wide: a crop of 46 about (60, 40)
    views[0, :3, 30:50, 40:80] = 0.2
    views[1, 3] = 1
    crops, parameters = crop_views(views)
    assert crops.shape == (2, 3, 224, 224)
    assert torch.allclose(parameters[0], torch.tensor([-0.2, 0.2, 0.92]))
    white, grey = ((value - 0.485) / 0.229 for value in (1.0, 0.2))
    column = crops[0, 0, :, 112]
    assert column[:50].sub(white).abs().max() < 1e-4 and abs(column[112] - grey) < 1e-4
    inside = (column < (white + grey) / 2).nonzero()
    assert abs(len(inside) - 224 * 20 / 46) < 3 and abs(inside.float().mean() - 112) < 2
    views[1, :3] = 0.2
    crops, parameters = crop_views(views)
    assert abs(parameters[1, 2] - 2.3) < 1e-5 and abs(crops[1, 0, 2, 112] - white) < 1e-4  # beyond the image
    assert abs(crops[1, 0, 112, 112] - grey) < 1e-4
    views[0, 3, 30:50, 40:80], views[0, 3, 35:45, 50:70] = 0.35, 1.0  # what is half seen at its rim is no foreground
    assert torch.allclose(crop_views(views)[1][0, 2], torch.tensor(2 * 23 / 100))
    views[1, 3] = 0
    with pytest.raises(UserError, match="view 1"):
        crop_views(views)


def test_known_cameras_are_recovered():
    # View 0 where SAP3D takes it to be, at azimuth −90°; the elevations differ.
    truth = cameras((20, -90, 1.8), (35, 30, 1.6), (-10, 170, 2.1), (20, -60, 1.5))
    w2c = spherical_to_w2c(truth)
    rotations = w2c[0, :, :3].T @ w2c[..., :3]
    for turn in (torch.eye(3), random_rotations(1, torch.Generator().manual_seed(2))[0]):  # of the whole set
        found = to_spherical(turn @ rotations, w2c[..., 3], math.radians(20))
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


def test_estimate_returns_ranked_runs_and_evidence(model):
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    crops = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.2, 1.2]])

    def estimate():
        effort = Effort(tree_samples=200, ascent_samples=100, ascent_steps=3, runs=3)
        return estimate_published(model, images, crops, torch.Generator().manual_seed(5), 0.4, effort)

    poses = estimate()
    assert poses.cameras.shape == (3, 3) and poses.runs.shape == (3, 3, 3) and poses.scores.shape == (3,)
    assert torch.allclose(poses.cameras[0, :2], torch.tensor([0.4, 0.0]), atol=1e-6)
    assert (poses.scores.diff() <= 0).all() and poses.scores.isfinite().all()
    assert poses.pair_rotations.shape == (3, 3, 3, 3) and (poses.pair_scores <= 0).all()
    assert torch.allclose(poses.rotations[0], torch.eye(3), atol=1e-5)
    assert torch.equal(estimate().runs, poses.runs)
    with pytest.raises(UserError, match="not 1"):
        estimate_published(model, images[:1], crops[:1], torch.Generator(), 0.0, Effort())


def test_energies_are_of_features_that_have_seen_all_views(model):
    """RelPose++'s: one set of all views, a pair in the order of its numbers, R transposed for the other."""
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    crops = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.2, 1.2]])
    effort = Effort(tree_samples=200, ascent_samples=0, ascent_steps=0, runs=1)
    poses = estimate_published(model, images, crops, torch.Generator().manual_seed(5), 0.4, effort)
    with torch.no_grad():
        features = model.attend(model.tokens(images, crops))
        total = sum(
            2 * model.pair_energies(features[i], features[j], (poses.rotations[i].T @ poses.rotations[j])[None])[0]
            for i, j in ((0, 1), (0, 2), (1, 2))
        )
        pair = model.attend(model.tokens(images[:2], crops[:2]))
    torch.testing.assert_close(poses.scores[0], total, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(pair[0], features[0], atol=1e-2), "a pair by itself would be scored otherwise"

"""The diffusion model's own evaluation, on a tiny model and noise for images."""

import math

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from camerabooth import evaluate
from camerabooth.backbones.interface import DiffusionModel
from sap3d.cameras.maths import camera_axes, evaluation_grid
from sap3d.errors import UserError
from sap3d.scene import Scene
from sap3d.views import write_view
from tests.tiny import tiny_model

AZIMUTHS = (0.0, 40.0, 80.0, 180.0, 250.0)  # degrees; only the first three have neighbours within 60°


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Scene:
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    scene, rng = Scene("toy_demo", "noise", 5), np.random.default_rng(0)
    train = torch.tensor([[0.3, math.radians(azimuth), 1.8] for azimuth in AZIMUTHS])
    for folder, cameras in ((scene.train, train), (scene.test, evaluation_grid(train[0]))):
        for index, camera in enumerate(cameras):
            write_view(folder, index, rng.integers(0, 256, (16, 16, 4), np.uint8), camera)
    return scene


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny_model(16).requires_grad_(False)


def test_psnr_of_a_known_error():
    truth = torch.rand(2, 4, 8, 8)
    off = truth.clone()
    off[:, :3] += torch.tensor([0.1, 0.01])[:, None, None, None]
    off[:, 3] = 0  # alpha does not count
    torch.testing.assert_close(evaluate.psnr(off, truth), torch.tensor([20.0, 40.0]), rtol=0, atol=1e-2)


def test_sharpness_is_the_slope_inside_the_mask():
    ramp = torch.linspace(0, 0.7, 8).expand(1, 4, 8, 8).clone()
    ramp[..., 4:, :] = 0.5  # a step outside the mask
    masks = torch.zeros(1, 8, 8)
    masks[:, :4] = 1
    assert evaluate.sharpness(ramp, masks) == pytest.approx(0.1)
    assert evaluate.sharpness(ramp.mT + ramp, masks) > 0.14


def test_every_method_and_number_of_sources_is_scored(scene, model):
    scores, picture = evaluate.evaluate_object(model, scene, (0.2, 1.0), steps=2, guidance_scale=1.0)
    samples = ["samples, temperature 0.2", "samples, temperature 1.0"]
    named = ["conditional mean", *samples, "nearest source", "white"]
    assert list(scores) == named
    assert all(set(by_count) == set(evaluate.SOURCES) for by_count in scores.values())
    assert len(set(scores["white"].values())) == 1
    _, cameras, truth, targets = evaluate.load_views(scene, 16)
    apart = (camera_axes(targets)[:, None, :, 2] * camera_axes(cameras)[..., 2]).sum(-1)
    assert truth.shape == (24, 4, 16, 16) and apart.max() < 0.9999  # view 0 is in the grid, but no target
    small = torch.nn.functional.interpolate(truth, size=(64, 64), mode="area")  # at the size of the comparison
    assert scores["white"][1] == (pytest.approx(evaluate.psnr(torch.ones_like(small), small).mean().item()), 0)
    # From one source, "nearest" is that source for every target.
    first = evaluate.load_views(scene, 16)[0][:1].expand(len(truth), -1, -1, -1)
    assert scores["nearest source"][1][0] == pytest.approx(evaluate.psnr(first, truth).mean().item())
    assert picture.shape == (40, 16, 16, 3)  # five rows


def test_profiles_are_of_neighbours_only(scene, model, tmp_path):
    profiles = evaluate.azimuth_profiles(model, scene)
    assert profiles.shape == (2, 2, len(evaluate.OFFSETS))  # (0, 40) and (40, 80), both ways
    assert profiles.std(-1).min() > 0
    evaluate.plot_sensitivity(tmp_path / "plot.png", profiles)
    assert imageio.imread(tmp_path / "plot.png").std() > 0


def test_a_profile_is_the_denoising_loss_and_its_directions_agree_on_the_error(scene, model, monkeypatch):
    monkeypatch.setattr(evaluate, "SENSITIVITY_TIMESTEPS", (400,))
    monkeypatch.setattr(evaluate, "SENSITIVITY_DRAWS", 1)
    images, cameras, _, _ = evaluate.load_views(scene, 16)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    profiles = evaluate.azimuth_profiles(model, scene)
    error = 6  # view 1 is seen 30° too far from view 0 in the one direction, view 0 from view 1 in the other
    for direction, (source, target, sign) in enumerate(((0, 1, 1), (1, 0, -1))):
        turned = cameras[target].clone()
        turned[1] += sign * torch.deg2rad(evaluate.OFFSETS[error])
        sources = model.embed_sources(images[source, None], cameras[source, None])
        condition, latents = model.condition(sources, turned[None]), model.encode(images[target, None])
        loss = DiffusionModel.denoising_error(model, latents, condition, torch.tensor([400]), noise)
        assert profiles[0, direction, error].item() == pytest.approx(loss.item(), rel=1e-3)


def test_share_near_zero():
    lowest = torch.tensor([0, 2, -2, 3])[:, None] * 2.5  # degrees: three of four are within 5
    assert evaluate.share_near_zero((evaluate.OFFSETS - lowest).square()) == 0.75


def test_too_few_test_views_are_named(scene, model):
    for path in sorted((scene.test / "images").iterdir())[10:]:
        path.unlink()
    with pytest.raises(UserError, match="10 test views"):
        evaluate.evaluate_object(model, scene, (1.0,), steps=1)

"""Guidance by itself: its cameras, expected views, and what it takes from the model."""

from dataclasses import replace

import pytest
import torch

from camerabooth.backbones.interface import DiffusionModel
from sap3d.cameras import maths as cam
from sap3d.field import grid as dense
from tests.threestudio.scenes import CAMERAS
from tests.tiny import tiny_model
from threestudio.models.guidance.sds import MultiViewSDS, sharpen


def bare_guidance(**options) -> MultiViewSDS:
    """Guidance whose model stage 2 has not saved."""
    guidance = MultiViewSDS.__new__(MultiViewSDS)
    torch.nn.Module.__init__(guidance)
    guidance.config = MultiViewSDS.Config(**options)
    return guidance


def test_sds_cameras_cover_the_sphere():
    guidance = bare_guidance(cameras=2000, elevation_range=[-10, 80])
    drawn = guidance.draw_cameras(CAMERAS, torch.Generator().manual_seed(0))
    assert -10.01 < torch.rad2deg(drawn[:, 0]).min() < -8 and 75 < torch.rad2deg(drawn[:, 0]).max() < 80.01
    assert drawn[:, 1].max() - drawn[:, 1].min() > 6.2
    assert 1.6 <= drawn[:, 2].min() and drawn[:, 2].max() <= 1.8


@pytest.fixture
def model() -> DiffusionModel:
    return tiny_model()


@pytest.mark.parametrize("views", [1, 3])
def test_views_are_expected_where_no_photo_looks(model, views):
    guidance = bare_guidance(expected_views=12, unseen_from=60.0)
    guidance.model = model
    guidance.condition(torch.rand(views, 4, 64, 64), CAMERAS[:views])
    images, cameras = guidance.expect(CAMERAS[:views], torch.Generator().manual_seed(0))
    assert 0 < len(images) == len(cameras) < 12 and images.shape[1] == 4
    assert cam.sight_cosines(cameras, CAMERAS[:views]).max() < 0.5
    guidance.config.unseen_from = 180.0
    assert len(guidance.expect(CAMERAS[:views], torch.Generator().manual_seed(0))[0]) == 0


def test_photos_are_read_once_for_all_steps(model, monkeypatch):
    read, prepare = [], model.prepare
    monkeypatch.setattr(model, "prepare", lambda images: read.append(images) or prepare(images))
    guidance, photos = bare_guidance(), torch.rand(3, 4, 64, 64)
    guidance.model = model
    for moved in (0.0, 0.1):
        guidance.condition(photos.clone(), CAMERAS + moved)
        torch.testing.assert_close(guidance.sources.cameras[0], CAMERAS + moved)
    assert len(read) == 1
    guidance.condition(1 - photos, CAMERAS)
    assert len(read) == 2 and torch.equal(
        guidance.sources.images[0], model.embed_sources(1 - photos, CAMERAS).images[0]
    )


def test_guidance_leaves_out_what_stage_2_remembers_of_the_object(model, tmp_path):
    model.save_pretrained(tmp_path / "weights")
    model.instance = torch.nn.Parameter(torch.ones(8, 8, 8, 8))
    model.save_pretrained(tmp_path / "tuned")
    expected = []
    for folder in ("weights", "tuned"):
        guidance = MultiViewSDS(MultiViewSDS.Config(str(tmp_path / folder), expected_views=8), scene=None)
        guidance.forget_object()
        guidance.condition(torch.linspace(0, 1, 3 * 4 * 64 * 64).view(3, 4, 64, 64), CAMERAS)
        expected.append(guidance.expect(CAMERAS, torch.Generator().manual_seed(0))[0])
    assert len(expected[0]) and torch.equal(*expected)


def test_a_known_field_gets_contrast_about_its_surface(model):
    guidance = bare_guidance(contrast=2.0)
    guidance.model = model
    guidance.condition(torch.rand(2, 4, 64, 64), CAMERAS[:2])
    plain, sharp = model.raw_field(guidance.sources, 12), guidance.raw_field(12)
    assert torch.equal(plain[1:], sharp[1:])
    surface = -dense.DENSITY_SHIFT
    torch.testing.assert_close(sharp[0] - surface, 2 * (plain[0] - surface))


def test_sharpened_masks_keep_colours():
    alpha = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0]).view(1, 1, 1, 5)
    own = torch.tensor([0.2, 0.9, 0.4]).view(1, 3, 1, 1)
    sharp = sharpen(torch.cat([own * alpha + 1 - alpha, alpha], 1), 2.0)
    expected = torch.tensor([0.0, 0.0, 0.5, 0.9, 1.0]).view(1, 1, 1, 5)
    torch.testing.assert_close(sharp, torch.cat([own * expected + 1 - expected, expected], 1))


def test_guidance_is_set_by_the_model_unless_the_config_says_otherwise(tmp_path, model):
    model.settings = replace(model.settings, guidance_scale=3.0, contrast=1.5)
    model.save_pretrained(tmp_path / "tuned")
    names, folder = ("guidance_scale", "contrast"), str(tmp_path / "tuned")
    for chosen, expected in (({}, [3.0, 1.5]), ({"guidance_scale": 7.5, "contrast": 1.0}, [7.5, 1.0])):
        guidance = MultiViewSDS(MultiViewSDS.Config(folder, **chosen), scene=None)
        assert [guidance._setting(name) for name in names] == expected

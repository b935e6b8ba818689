"""Pictures of a ball, whose normals, silhouette and photos are known."""

import imageio.v3 as imageio
import numpy as np
import torch
import torch.nn.functional as F

from sap3d.cameras import maths as cam
from tests.threestudio.fields import ball, renderer
from threestudio.models.exporters.pictures import PictureExporter, frame, normal_grid

SIZE = 32
CAMERAS = torch.tensor([[0.4, 0.3, 1.7], [0.1, 2.0, 1.6]])


def culled_ball():
    module = renderer(ball(48, 0.35))
    module.update_occupancy(margin=0)
    return module


def test_a_frame_shows_colour_normals_depth_and_opacity():
    module, camera = culled_ball(), CAMERAS[0]
    normals = normal_grid(module.geometry.grid.detach())
    panels = np.split(frame(module.image(camera, SIZE), camera, normals) / 255, 4, axis=1)
    assert all((panel[0, 0] == 1).all() for panel in panels)  # white where nothing is
    color, normal, depth, opacity = (panel[SIZE // 2, SIZE // 2] for panel in panels)
    assert color[0] > 0.9 > 0.1 > color[1]  # the ball is red above
    towards_camera = F.normalize(cam.camera_positions(camera), dim=-1).numpy()
    np.testing.assert_allclose(normal * 2 - 1, towards_camera, atol=0.1)
    assert depth[0] > depth[2]  # nearer than the object's middle: the map's warm end
    assert (opacity < 0.02).all()


def test_the_inputs_errors_are_black_where_the_photo_is_met(tmp_path):
    module = culled_ball()
    photos = torch.stack([module.image(camera, SIZE).color for camera in CAMERAS]).permute(0, 3, 1, 2)
    photos = torch.cat([photos, torch.ones(2, 1, SIZE, SIZE)], 1)
    photos[1, :3, :4] = 0.0  # white there
    PictureExporter(PictureExporter.Config(size=SIZE), module).write_inputs(tmp_path / "inputs.png", photos, CAMERAS)
    picture = imageio.imread(tmp_path / "inputs.png")
    tiles = [picture[2 + row * (SIZE + 2) :, 2 + column * (SIZE + 2) :] for row in (0, 1, 2) for column in (0, 1)]
    tiles = [tile[:SIZE, :SIZE].astype(int) for tile in tiles]
    assert np.abs(tiles[0] - tiles[2]).max() <= 1
    assert tiles[4].max() < 16
    assert tiles[5][:4].min(axis=-1).min() > 150 and tiles[5][4:].max() < 16

"""Conventions of docs/CONVENTIONS.md: round trips, hand-computed values, closed forms."""

import math

import pytest
import torch

from sap3d.cameras import maths as cam

EYE = torch.eye(3)


def random_cameras(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return random * torch.tensor([3.0, 6.28, 1.0]) - torch.tensor([1.5, 3.14, -1.5])


def axis_rotation(axis: int, angle: float) -> torch.Tensor:
    """Rotation by the right-hand rule, written out."""
    c, s = math.cos(angle), math.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[i, i], rotation[i, j], rotation[j, i], rotation[j, j] = c, -s, s, c
    return rotation


def test_axes_of_a_camera_on_x():
    # On +x at the height of the origin: right is +y, up is +z, backward is +x.
    axes = cam.camera_axes(torch.tensor([0.0, 0.0, 2.0]))
    torch.testing.assert_close(axes, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))


def test_positions():
    cameras = torch.tensor([[0.0, math.pi / 2, 2.0], [math.pi / 2, 0.0, 1.5], [math.pi / 6, 0.0, 2.0]])
    origins, _ = cam.rays(cameras, torch.zeros(1, 2))
    expected = torch.tensor([[0.0, 2, 0], [0, 0, 1.5], [math.sqrt(3), 0, 1]])
    torch.testing.assert_close(origins[:, 0], expected, atol=1e-6, rtol=0)


def test_principal_points_shift_the_image():
    cameras = random_cameras(20)
    middles = 0.2 * random_cameras(20, seed=1)[:, :2]
    shifted = torch.cat([cameras, middles], -1)
    points = 0.4 * random_cameras(20 * 7, seed=2).view(20, 7, 3)
    pixels, depth = cam.project(shifted, points)
    torch.testing.assert_close(pixels, cam.project(cameras, points)[0] + middles[:, None])
    origins, directions = cam.rays(shifted, pixels)
    torch.testing.assert_close(origins + depth[..., None] * directions, points)
    torch.testing.assert_close(cam.project(shifted, torch.zeros(20, 1, 3).double())[0][:, 0], middles)


def test_roll_and_field_of_view():
    """The principal ray stays; a point one unit to the camera's right at one unit of depth lies where both say."""
    roll, field_of_view = 0.3, math.radians(40)
    camera = torch.tensor([0.0, 0.0, 2.0, 0.1, -0.2, roll, field_of_view], dtype=torch.float64)
    pixels, depth = cam.project(camera, torch.tensor([[0.0, 0, 0], [1.0, 0.5, 0]], dtype=torch.float64))
    torch.testing.assert_close(depth, torch.tensor([2.0, 1.0], dtype=torch.float64))
    expected = 0.5 * torch.tensor([math.cos(roll), -math.sin(roll)], dtype=torch.float64) / math.tan(math.radians(20))
    middle = torch.tensor([0.1, -0.2], dtype=torch.float64)
    torch.testing.assert_close(pixels, torch.stack([middle, middle + expected]))


def test_full_cameras_see_alike_and_rays_meet_what_is_projected():
    cameras = torch.cat([random_cameras(20), 0.2 * random_cameras(20, seed=1)[:, :2]], -1)
    points = 0.4 * random_cameras(20 * 7, seed=2).view(20, 7, 3)
    for these in (cameras[:, :3], cameras):
        torch.testing.assert_close(cam.project(cam.full_cameras(these), points), cam.project(these, points))
    full = cam.full_cameras(cameras) + torch.tensor([0, 0, 0, 0, 0, -0.4, 0.3])
    pixels, depth = cam.project(full, points)
    origins, directions = cam.rays(full, pixels)
    torch.testing.assert_close(origins + depth[..., None] * directions, points)
    assert torch.equal(cam.full_cameras(full), full)


def test_matrices_are_right_handed_and_without_roll():
    cameras = random_cameras(50)
    axes = cam.camera_axes(cameras)
    torch.testing.assert_close(axes.transpose(-1, -2) @ axes, EYE.double().expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(50, dtype=torch.float64))
    assert (axes[:, 2, 0] == 0).all()  # the right axis is level


@pytest.mark.parametrize("elevation", [-2.0, -math.pi / 2, -0.3, 0.0, 1.0, math.pi / 2, 1.7, 2.3])
def test_spherical_matrix_round_trip(elevation):
    azimuths = torch.linspace(-3.1, 3.1, 9, dtype=torch.float64)
    cameras = torch.stack([torch.full_like(azimuths, elevation), azimuths, torch.full_like(azimuths, 1.8)], -1)
    torch.testing.assert_close(cam.w2c_to_spherical(cam.spherical_to_w2c(cameras)), cameras, atol=1e-9, rtol=0)


def test_world_to_camera_puts_the_origin_in_front():
    cameras = random_cameras(20)
    w2c = cam.spherical_to_w2c(cameras)
    expected = torch.stack([torch.zeros(20), torch.zeros(20), -cameras[:, 2]], -1).double()
    torch.testing.assert_close(w2c[..., 3], expected)


def test_axes_are_smooth_over_the_pole():
    elevation = torch.tensor([math.pi / 2 - 1e-3, math.pi / 2 + 1e-3], dtype=torch.float64)
    axes = cam.camera_axes(torch.stack([elevation, torch.full_like(elevation, 0.7), torch.ones_like(elevation)], -1))
    angle = cam.rotation_angle(axes[0].T @ axes[1])
    torch.testing.assert_close(angle, torch.tensor(2e-3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_wrap_angle():
    angles = torch.tensor([0.0, math.pi, -math.pi, 3 * math.pi + 0.1, -7.0], dtype=torch.float64)
    wrapped = cam.wrap_angle(angles)
    assert (wrapped.abs() <= math.pi).all()
    torch.testing.assert_close(wrapped.sin(), angles.sin(), atol=1e-12, rtol=0)
    torch.testing.assert_close(wrapped.cos(), angles.cos(), atol=1e-12, rtol=0)


def test_relative_pose_by_hand():
    # Elevations 30° → 45°: polar angles 60° → 45°, Δpolar −15°; azimuth +90°; radius +0.5.
    source = torch.tensor([math.radians(30), math.radians(10), 1.5])
    target = torch.tensor([math.radians(45), math.radians(100), 2.0])
    expected = torch.tensor([math.radians(-15), 1.0, 0.0, 0.5])
    torch.testing.assert_close(cam.relative_pose(source, target), expected, atol=1e-6, rtol=0)
    still = torch.tensor([0.0, 0.0, 1.0, 0.0])
    torch.testing.assert_close(cam.relative_pose(source, source), still)
    full_turn = target + torch.tensor([0.0, 2 * math.pi, 0.0])
    torch.testing.assert_close(cam.relative_pose(source, full_turn), expected, atol=1e-6, rtol=0)


def test_pixel_grid():
    grid = cam.pixel_grid(4).reshape(4, 4, 2)
    torch.testing.assert_close(grid[0, 0], torch.tensor([-0.75, 0.75]))  # the first row is the top
    torch.testing.assert_close(grid[0, 3], torch.tensor([0.75, 0.75]))
    torch.testing.assert_close(grid[3, 0], torch.tensor([-0.75, -0.75]))


def test_project_inverts_rays():
    cameras = random_cameras(7)
    pixels = cam.pixel_grid(5).double()
    origins, directions = cam.rays(cameras, pixels)
    depths = torch.linspace(0.5, 3, 25, dtype=torch.float64)
    projected, depth = cam.project(cameras, origins + directions * depths[:, None])
    torch.testing.assert_close(projected, pixels.expand(7, -1, -1))
    torch.testing.assert_close(depth, depths.expand(7, -1))


def test_field_of_view():
    # A point at half the field of view above the axis projects to the image's upper edge.
    height = 2 * math.tan(math.radians(49.1 / 2))
    projected, depth = cam.project(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([[0.0, 0.0, height]]))
    torch.testing.assert_close(projected, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(depth, torch.tensor([2.0]))


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, math.pi / 2, 3.0, math.pi])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotation_angle(axis, angle):
    expected = torch.tensor(angle, dtype=torch.float64)
    torch.testing.assert_close(cam.rotation_angle(axis_rotation(axis, angle)), expected, atol=1e-9, rtol=0)


def test_pairwise_errors_of_one_turned_view():
    # Turning one view of N about its own frame changes exactly its 2 (N − 1) ordered pairs. A change of elevation is
    # a rotation of the camera by as much; so is a change of azimuth about the vertical axis.
    truth = random_cameras(5)
    for column, angle in ((0, 0.3), (1, 0.7)):
        estimate = truth.clone()
        estimate[2, column] += angle
        errors = cam.pairwise_rotation_errors(estimate, truth)
        assert errors.shape == (20,)
        expected = torch.tensor([0.0] * 12 + [angle] * 8, dtype=torch.float64)
        torch.testing.assert_close(errors.sort().values, expected, atol=1e-9, rtol=0)


def test_pairwise_errors_do_not_depend_on_the_gauge():
    truth, estimate = random_cameras(4), random_cameras(4, seed=1)
    errors = cam.pairwise_rotation_errors(estimate, truth)
    turned = estimate + torch.tensor([0.0, 1.234, 0.0])
    torch.testing.assert_close(cam.pairwise_rotation_errors(turned, truth), errors)
    torch.testing.assert_close(
        cam.pairwise_rotation_errors(truth + torch.tensor([0, 2.0, 0.3]), truth).max(),
        torch.tensor(0.0, dtype=torch.float64),
        atol=1e-7,
        rtol=0,
    )


def test_evaluation_grid():
    reference = torch.tensor([math.radians(20), math.radians(50), 1.7])
    grid = cam.evaluation_grid(reference)
    assert grid.shape == (84, 3)
    torch.testing.assert_close(grid[3 * 12], reference)  # the middle row's first camera is the reference
    torch.testing.assert_close(grid[0].rad2deg()[:2], torch.tensor([-25.0, 50.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(grid[83].rad2deg()[:2], torch.tensor([65.0, 380.0]), atol=1e-4, rtol=0)
    assert (grid[:, 2] == reference[2]).all()


def test_gradients_flow():
    cameras = random_cameras(3).requires_grad_()
    points = torch.rand(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    assert torch.autograd.gradcheck(lambda c: cam.project(c, points)[0], cameras)


HELD = torch.tensor(
    [
        [0.3, 0.5, 1.8, 0.1, -0.2, 0.4, 0.6],
        [-0.4, -2.0, 2.4, 0.0, 0.0, -0.7, 1.2],
        [1.3, 3.0, 1.6, 0.0, 0.1, 0.0, cam.FIELD_OF_VIEW],
        [1.8, 1.0, 1.6, 0.0, 0.0, 0.3, 0.9],  # beyond the pole
    ]
)


def test_rolled_cameras_come_back_from_their_matrices():
    found = cam.w2c_to_rolled(cam.spherical_to_w2c(HELD), field_of_view=0.6)
    torch.testing.assert_close(found[:, [0, 1, 2, 5]], HELD[:, [0, 1, 2, 5]], atol=1e-5, rtol=1e-5)
    assert (found[:, 6] == 0.6).all()


def test_plain_cameras_show_the_object_as_large():
    """A small disc that faces the camera at the origin."""
    cameras, plain = cam.centred(HELD), cam.plain(HELD)
    edge = 0.01 * cam.camera_axes(cameras)[:, :, 0]
    sizes = [cam.project(each, edge[:, None])[0].norm(dim=-1) for each in (cameras, plain)]
    torch.testing.assert_close(*sizes, atol=1e-6, rtol=1e-4)
    assert torch.equal(cam.plain(plain), plain)
    torch.testing.assert_close(cam.relative_pose(HELD[:1], HELD[1:]), cam.relative_pose(plain[:1], plain[1:]))
    assert torch.equal(cam.upright(HELD)[:, 5], torch.zeros(4)) and cam.upright(plain) is plain

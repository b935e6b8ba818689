"""RelPose++'s network: the checkpoint's names at full size, numbers on a shallow one."""

import hashlib
import math

import pytest
import torch

from relposepp.published import BLOCKS, DEPTH, RECOMPUTED, PublishedRelPose, crop_views, depths_of, load_published
from relposepp.published_poses import random_rotations
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
    return PublishedRelPose(blocks=(1, 1, 1, 1), depth=1).eval().requires_grad_(False)


def checkpoint() -> dict:
    """A checkpoint in the original's layout; each tensor repeats one number, so that its file stays small."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in meta_state().items()} | {RECOMPUTED: (1, 5, 2096)}
    state = {f"module.{name}": torch.rand(1, generator=generator).expand(shape) for name, shape in shapes.items()}
    return {"state_dict": state, "iteration": 105000, "epoch": 3, "elapsed": 1.5, "optimizer": {"state": {}}}


def test_names_and_shapes_are_the_checkpoints():
    lines = sorted(f"{name}\t{'x'.join(map(str, value.shape))}" for name, value in meta_state().items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NAMES_SHA256, "\n".join(lines)


def test_a_checkpoint_loads(tmp_path):
    path, content = tmp_path / "ckpt.pth", checkpoint()
    torch.save(content, path)
    state = load_published(path, CPU).state_dict()
    assert all(torch.equal(value, content["state_dict"][f"module.{name}"]) for name, value in state.items())


def test_a_checkpoint_says_how_deep_it_is(model, tmp_path):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "shallow.pth")
    loaded = load_published(tmp_path / "shallow.pth", CPU).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    assert depths_of(meta_state()) == (BLOCKS, DEPTH)


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

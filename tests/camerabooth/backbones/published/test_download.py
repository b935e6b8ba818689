"""Weights from a stand-in for the hub on this machine."""

import hashlib
import http.server
import json
import threading
import time
from dataclasses import replace

import pytest

from camerabooth.backbones.published import download
from sap3d.errors import UserError
from sap3d.runs.options import weights_path

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one file of one repository."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if self.answer():
            self.wfile.write(CONTENT)

    def answer(self) -> bool:
        files = ("cvlab/zero123-weights/resolve/main/105000.ckpt", "One-2-3-45/code/resolve/main/zero123-xl.ckpt")
        there = self.path[1:] in files
        self.send_response(200 if there else 404)
        headers = {"ETag": f'"{SHA256}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(CONTENT) * there)}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        return there

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_where_no_checkpoint_is_there_the_larger_one_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    path = weights_path("published")
    assert path == tmp_path / "camerabooth/weights/zero123-xl.ckpt"
    download.fetch(path)
    assert path.read_bytes() == CONTENT


def test_a_missing_checkpoint_is_fetched_once_and_noted(hub, tmp_path, monkeypatch, capsys):
    path = tmp_path / "105000.ckpt"
    download.fetch(path)
    assert path.read_bytes() == CONTENT and "fetching 105000.ckpt" in capsys.readouterr().out
    note = json.loads((tmp_path / "105000.ckpt.json").read_text())
    assert note == {"repository": "cvlab/zero123-weights", "revision": COMMIT, "sha256": SHA256}
    download.fetch(path)
    assert capsys.readouterr().out == ""


def test_another_content_than_expected_is_refused(hub, tmp_path, monkeypatch):
    source = replace(download.SOURCES["105000.ckpt"], sha256="0" * 64)
    monkeypatch.setitem(download.SOURCES, "105000.ckpt", source)
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, not 0000"):
        download.fetch(tmp_path / "105000.ckpt")
    assert not (tmp_path / "105000.ckpt").exists() and not list(tmp_path.rglob("*.ckpt"))


def test_offline_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the hub's five tries
    for name, message in (
        ("zero123-xl.ckpt", "cannot be fetched.*put the file there, from https://zero123.cs.columbia.edu/"),
        ("mine.ckpt", "no such file; put zero123-xl.ckpt"),
    ):
        with pytest.raises(UserError, match=message) as error:
            download.fetch(tmp_path / name)
        assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)

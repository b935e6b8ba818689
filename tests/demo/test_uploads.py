"""Nothing that a visitor sends gets out of its folder, and each refusal is a sentence."""

import io
import stat
import struct
import zipfile
import zlib

import pytest
import uploads
from PIL import Image
from uploads import Limits, receive

from sap3d.errors import UserError
from tests.demo.photos import picture, write_photos

LIMITS = Limits(photos=8, megabytes=1)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def png(shift: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(shift)).save(file, "PNG")
    return file.getvalue()


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write_zip(path, members: dict[str, bytes], mode: int = 0, flags: int = 0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = mode << 16
            archive.writestr(member, content)
    if flags:  # as a packer that encrypts would set them, in the central directory
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\x01\x02") + 8] |= flags
        path.write_bytes(data)
    return path


def test_pictures_get_names_of_ours_and_suffixes_of_their_content(tmp_path, folder):
    sent = write_photos(tmp_path / "sent", 2)
    disguised = tmp_path / "sent/a photo; rm -rf $HOME.jpg"
    disguised.write_bytes(png())
    names, refused = receive([disguised, *sent], folder, LIMITS)
    assert names == ["0.jpg", "1.jpg", "a photo; rm -rf $HOME.jpg"] and not refused
    assert sorted(path.name for path in folder.iterdir()) == ["000.jpg", "001.jpg", "002.png"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("page.png", b"<html><script>alert(1)</script></html>", "not a JPEG, PNG, WebP or HEIC picture"),
        ("drawing.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not a JPEG"),
        ("program.jpg", b"\x7fELF" + bytes(100), "not a JPEG"),
        ("empty.jpg", b"", "not a JPEG"),
        ("cut.png", png()[:40], "not a JPEG"),
        ("bomb.png", bomb(), "more than 100 million pixels"),
        ("large.png", png() + bytes(2**20), "larger than 1 MB"),
        ("old.gif", b"GIF89a" + bytes(50), "not a JPEG"),
    ],
)
def test_a_bad_file_is_refused_and_the_others_are_kept(tmp_path, folder, name, content, reason):
    good = write_photos(tmp_path / "sent", 1)
    (tmp_path / "sent" / name).write_bytes(content)
    names, refused = receive([*good, tmp_path / "sent" / name], folder, LIMITS)
    assert names == ["0.jpg"]
    assert len(refused) == 1 and refused[0].startswith(name) and reason in refused[0]
    assert [path.name for path in folder.iterdir()] == ["000.jpg"]


def test_too_many_files_are_refused_before_any_is_read(tmp_path, folder):
    with pytest.raises(UserError, match="500 files, but at most 8"):
        receive([tmp_path / f"{index}.jpg" for index in range(500)], folder, LIMITS)
    assert not any(folder.iterdir())


def test_a_zip_of_photos_is_taken_without_what_archivers_add(tmp_path, folder):
    members = {"mug/b.png": png(4), "mug/a.png": png(), "__MACOSX/mug/._a.png": b"x", "mug/.DS_Store": b"x"}
    names, refused = receive([write_zip(tmp_path / "mug.zip", members)], folder, LIMITS)
    assert names == ["a.png", "b.png"] and not refused
    assert (folder / "000.png").read_bytes() == png()


@pytest.mark.parametrize(
    ("name", "mode", "flags", "reason"),
    [
        ("../escaped.png", 0, 0, "outside the archive"),
        ("a/../../escaped.png", 0, 0, "outside the archive"),
        ("/tmp/escaped.png", 0, 0, "outside the archive"),
        ("..\\escaped.png", 0, 0, "outside the archive"),
        ("C:escaped.png", 0, 0, "outside the archive"),
        ("link.png", stat.S_IFLNK | 0o777, 0, "is a link"),
        ("secret.png", 0, 1, "is encrypted"),
    ],
)
def test_an_archive_that_reaches_out_is_refused_as_a_whole(tmp_path, folder, name, mode, flags, reason):
    archive = write_zip(tmp_path / "sent.zip", {name: png()}, mode, flags)
    with pytest.raises(UserError, match=reason):
        receive([archive], folder, LIMITS)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["job", "sent.zip"]


def test_a_zip_bomb_stops_at_the_limit(tmp_path, folder):
    archive = write_zip(tmp_path / "bomb.zip", {"zeros.png": bytes(50 * 2**20)})
    assert archive.stat().st_size < 2**18
    names, refused = receive([archive], folder, LIMITS)
    assert not names and "zeros.png: larger than 1 MB" in refused[0]
    assert not any(folder.iterdir())


def test_a_zip_of_many_members_is_refused(tmp_path, folder):
    archive = write_zip(tmp_path / "many.zip", {f"{index}.png": b"" for index in range(500)})
    with pytest.raises(UserError, match="500 files in it"):
        receive([archive], folder, LIMITS)


def test_a_zip_and_photos_together_or_no_zip_at_all_are_refused(tmp_path, folder):
    archive = write_zip(tmp_path / "a.zip", {"a.png": png()})
    with pytest.raises(UserError, match="either"):
        receive([archive, *write_photos(tmp_path / "sent", 1)], folder, LIMITS)
    archive.write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a readable zip"):
        receive([archive], folder, LIMITS)


def test_a_member_that_was_damaged_is_refused(tmp_path, folder):
    archive = write_zip(tmp_path / "a.zip", {"a.png": png()})
    data = bytearray(archive.read_bytes())
    data[60:100] = bytes(40)
    archive.write_bytes(data)
    names, refused = receive([archive], folder, LIMITS)
    assert not names and len(refused) == 1 and refused[0].startswith("a.png")
    assert not any(folder.iterdir())


def test_the_chunk_is_what_memory_is_bounded_by():
    class Endless(io.RawIOBase):
        largest = 0

        def read(self, size=-1):
            assert 0 < size <= uploads.CHUNK
            return bytes(size)

    with pytest.raises(UserError, match="larger than"):
        uploads.copy("endless.png", Endless(), uploads.Path("/dev/null"), Limits(megabytes=5))

"""What was sent: files, folders and zips of any make. Nothing gets out of its folder; each refusal is a sentence."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from sap3d.errors import UserError
from sap3d.photos import intake
from sap3d.photos.intake import Limits, find_photos, natural
from tests.intake.files import write_zip

LIMITS = Limits(photos=8, megabytes=1)
UTF8 = 0x800


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def names(tmp_path, scratch, *members: bytes, flags: int = 0) -> list[str]:
    archive = write_zip(tmp_path / "sent.zip", [(name, name) for name in members], flags)
    found, refused = find_photos([archive], scratch, LIMITS)
    assert not refused
    assert sorted(file.path.read_bytes() for file in found) == sorted(members)
    return [file.name for file in found]


@pytest.mark.parametrize(
    ("name", "flags", "seen"),
    [
        (b"mug/a.jpg", 0, "a.jpg"),
        (b"./mug/a.jpg", 0, "a.jpg"),
        (b"mug\\a.jpg", 0, "a.jpg"),
        (b"12:30 mug.jpg", 0, "12:30 mug.jpg"),
        (b"C:a.jpg", 0, "C:a.jpg"),
        ("Кружка.jpg".encode(), UTF8, "Кружка.jpg"),
        ("Кружка.jpg".encode(), 0, "Кружка.jpg"),
        ("café.jpg".encode("cp437"), 0, "café.jpg"),
        ("表.jpg".encode("cp932"), 0, "表.jpg"),  # its second byte is a backslash's
        ("写真.jpg".encode("cp932"), 0, "写真.jpg"),
        ("照片.jpg".encode("gbk"), 0, "照片.jpg"),
        ("照片.jpg".encode("gbk"), UTF8, "照片.jpg"),
        (b"\x95\xff\xfe.jpg", UTF8, "ò\xa0■.jpg"),
        (b"bell\x07.jpg", 0, "bell?.jpg"),
    ],
)
def test_a_zip_names_its_files_in_any_encoding(tmp_path, scratch, name, flags, seen):
    assert names(tmp_path, scratch, name, flags=flags) == [seen.replace("\xa0", "?")]


def test_what_archivers_cameras_and_systems_add_is_passed_over(tmp_path, scratch):
    junk = [b"__MACOSX/._a.jpg", b".DS_Store", b"a/Thumbs.db", b"desktop.ini", b"@eaDir/a.jpg/SYNOPHOTO.jpg", b"a.MOV",
            b"a.AAE", b"a.jpg.json", b"$RECYCLE.BIN/x.jpg", b".trash/a.jpg"]  # fmt: skip
    archive = write_zip(tmp_path / "sent.zip", [(b"a.jpg", b"x"), *((name, b"x") for name in junk)])
    found, refused = find_photos([archive], scratch, Limits(photos=1))
    assert [file.name for file in found] == ["a.jpg"] and not refused
    folder = tmp_path / "folder"
    (folder / "@eaDir").mkdir(parents=True)
    for name in ("a.jpg", "Thumbs.db", "desktop.ini", ".hidden.jpg", "IMG_1.MOV"):
        (folder / name).write_bytes(b"x")
    assert [file.name for file in find_photos([folder], scratch, Limits(photos=1))[0]] == ["a.jpg"]


def test_names_are_sorted_as_people_count(tmp_path, scratch):
    sent = [tmp_path / name for name in ("IMG_10.jpg", "img_9.JPG", "IMG_8.jpg", "2.jpg", "a.jpg", "²·.jpg")]
    for path in sent:
        path.write_bytes(b"x")
    found, _ = find_photos(sent, scratch, LIMITS)
    assert [file.name for file in found] == ["2.jpg", "a.jpg", "IMG_8.jpg", "img_9.JPG", "IMG_10.jpg", "²·.jpg"]
    assert natural("a2b10") > natural("a2b9") > natural("a1b11") and natural("") < natural("a")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, scratch):
    for folder in ("front", "back"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(b"x")
    found, _ = find_photos([tmp_path / "front", tmp_path / "back"], scratch, LIMITS)
    assert [file.name for file in found] == ["back/1.jpg", "front/1.jpg"]


def test_a_folder_files_and_zips_can_come_together(tmp_path, scratch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/3.jpg").write_bytes(b"3")
    (tmp_path / "4.jpg").write_bytes(b"4")
    zips = [write_zip(tmp_path / f"{index}.zip", [(b"%d.jpg" % index, b"%d" % index)]) for index in (1, 2)]
    found, refused = find_photos([*zips, tmp_path / "folder", tmp_path / "4.jpg", tmp_path / "none"], scratch, LIMITS)
    assert [file.path.read_bytes() for file in found] == [b"1", b"2", b"3", b"4"]
    assert refused == [f"{tmp_path / 'none'}: no such file or folder"]


@pytest.mark.parametrize(
    ("name", "mode", "flags", "reason"),
    [
        (b"../escaped.png", 0, 0, "outside the archive"),
        (b"a/../../escaped.png", 0, 0, "outside the archive"),
        (b"/tmp/escaped.png", 0, 0, "outside the archive"),
        (b"..\\escaped.png", 0, 0, "outside the archive"),
        (b"escaped.png", stat.S_IFLNK | 0o777, 0, "a link"),
        (b"escaped.png", 0, 1, "encrypted"),
    ],
)
def test_a_member_that_reaches_out_is_refused_and_costs_no_other(tmp_path, scratch, name, mode, flags, reason):
    archive = write_zip(tmp_path / "sent.zip", [(name, b"x")], flags, mode)
    found, refused = find_photos([archive], scratch, LIMITS)
    assert not found and len(refused) == 1 and refused[0].startswith("escaped.png: ") and reason in refused[0]
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("good.png", b"y")
    found, refused = find_photos([archive], scratch, LIMITS)
    assert [file.name for file in found] == ["good.png"] and len(refused) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["000000", "scratch", "sent.zip"]


def test_a_damaged_or_unknown_member_costs_no_other(tmp_path, scratch):
    archive = write_zip(tmp_path / "sent.zip", [(b"a.png", bytes(range(256)) * 4), (b"b.png", b"y")])
    data = bytearray(archive.read_bytes())
    data[60:100] = bytes(40)
    archive.write_bytes(data)
    found, refused = find_photos([archive], scratch, LIMITS)
    assert [file.name for file in found] == ["b.png"] and refused[0].startswith("a.png: damaged in the zip")
    place = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, place + 10, 9)  # Deflate64, as Windows packs what is large
    archive.write_bytes(data)
    found, refused = find_photos([archive], scratch, LIMITS)
    assert [file.name for file in found] == ["b.png"] and "packed in a way that is not read" in refused[0]


def test_a_zip_bomb_stops_at_the_limit(tmp_path, scratch):
    archive = write_zip(tmp_path / "bomb.zip", [(b"zeros.png", bytes(50 * 2**20))])
    assert archive.stat().st_size < 2**18
    found, refused = find_photos([archive], scratch, LIMITS)
    assert not found and refused == ["zeros.png: larger than 1 MB"] and not any(scratch.iterdir())
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2**20 + 1))
    assert find_photos([large], scratch, LIMITS) == ([], ["large.png: larger than 1 MB"])


def test_too_many_files_are_refused_before_any_is_unpacked(tmp_path, scratch):
    archive = write_zip(tmp_path / "many.zip", [(b"%04d.png" % index, b"") for index in range(500)])
    with pytest.raises(UserError, match="500 files, but at most 8"):
        find_photos([archive], scratch, LIMITS)
    assert not any(scratch.iterdir())


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(9), b"PK\x03\x04" + bytes(99)])
def test_what_is_no_zip_is_refused_and_costs_no_photo(tmp_path, scratch, content):
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "b.jpg").write_bytes(b"x")
    found, refused = find_photos([tmp_path / "a.zip", tmp_path / "b.jpg"], scratch, LIMITS)
    assert [file.name for file in found] == ["b.jpg"] and refused == ["a.zip: not a readable zip"]


def test_the_chunk_is_what_memory_is_bounded_by():
    class Endless(io.RawIOBase):
        def read(self, size=-1):
            assert 0 < size <= intake.CHUNK
            return bytes(size)

    with pytest.raises(UserError, match="larger than"):
        intake.copy(Endless(), Path("/dev/null"), Limits(megabytes=5))

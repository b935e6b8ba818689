"""Names of objects, and lists of them as editors write them."""

import pytest

from sap3d.errors import UserError
from sap3d.names import PLAIN_NAME, read_object_list, safe_name, shown


def test_names_are_shown_on_one_line():
    assert shown("a\nb\x1b[31m.jpg") == "a?b?[31m.jpg" and shown("\udcff.jpg") == "?.jpg"
    assert shown("Кружка.jpg") == "Кружка.jpg"


@pytest.mark.parametrize("name", ["my mug", "Кружка", "мой mug", "-x", "@eaDir", "a\nb", "\udcff", "x" * 300, "🫖"])
def test_any_folder_gets_a_plain_name_that_is_always_the_same(name):
    safe = safe_name(name, set())
    assert PLAIN_NAME.fullmatch(safe) and safe_name(name, set()) == safe
    other = safe_name(name, {safe})
    assert PLAIN_NAME.fullmatch(other)


def test_plain_names_stay_and_others_remind_of_theirs():
    assert safe_name("my_mug", {"my_mug"}) == "my_mug" and safe_name("my mug", set()) == "my_mug"
    assert safe_name("my mug", {"my_mug"}).startswith("my_mug_") and safe_name("мой mug", set()) == "mug"
    assert safe_name("Кружка", set()) != safe_name("Чашка", set())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_list_is_read_as_windows_writes_it(tmp_path, encoding, newline):
    path = tmp_path / "objects.txt"
    path.write_bytes(newline.join(["toys mug", "", "toys shoe", ""]).encode(encoding))
    assert read_object_list(path) == [("toys", "mug"), ("toys", "shoe")]


@pytest.mark.parametrize("content", [b"toys mug\xff", b"\xff\xfe\x00", b"toys mug shoe", b"toys"])
def test_another_text_is_refused_by_name(tmp_path, content):
    (tmp_path / "objects.txt").write_bytes(content)
    with pytest.raises(UserError, match="objects.txt"):
        read_object_list(tmp_path / "objects.txt")
    with pytest.raises(UserError, match="No such file"):
        read_object_list(tmp_path / "none.txt")

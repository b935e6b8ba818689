import json

import pytest

from sap3d.errors import UserError
from sap3d.scene import Scene
from sap3d.scores.ablations import AblationTable, argument_parser, chosen_variants, read_sets


@pytest.fixture
def arguments(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"toy_demo toy_{i}\n" for i in range(5)))

    def parse(*words: str):
        return argument_parser("", views=["1", "3"]).parse_intermixed_args(["--list", str(path), *words])

    return parse


def test_every_object_has_all_numbers_of_views_or_one_in_turn(arguments):
    objects = [("toy_demo", f"toy_{i}") for i in range(5)]
    assert read_sets(arguments()) == {1: objects, 3: objects}
    assert read_sets(arguments("--in-turn")) == {1: objects[::2], 3: objects[1::2]}


def test_unknown_variants_are_named(arguments):
    assert list(chosen_variants(arguments("--variants", "b"), {"a": 1, "b": 2})) == ["b"]
    with pytest.raises(UserError, match=r"no 'c' \(there are a, b\)"):
        chosen_variants(arguments("--variants", "a", "c"), {"a": 1, "b": 2})


def test_rows_are_kept_and_means_are_over_all_titles(tmp_path, capsys):
    path, columns = tmp_path / "table.json", {"psnr": "PSNR", "CD": "Chamfer"}
    table = AblationTable(path, columns)
    for title, name, psnr in (("1 view", "toy_0", 20.0), ("3 views", "toy_1", 21.0), ("3 views", "toy_2", 25.0)):
        scene = Scene("toy_demo", name, int(title[0]))
        table.fill(title, "full", scene, lambda psnr=psnr: {"psnr": psnr, "CD": None})
    again = AblationTable(path, columns)
    again.fill("1 view", "full", Scene("toy_demo", "toy_0", 1), lambda: pytest.fail("done again"))
    assert json.loads(path.read_text())["3 views"]["full"]["toy_demo/toy_2"] == {"psnr": 25.0, "CD": None}
    capsys.readouterr()
    again.print("1 view", "3 views")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["full", "22.000", "n/a"]

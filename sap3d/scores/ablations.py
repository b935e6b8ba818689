"""Tables of what the variants of a stage give, over a list of objects, kept in a JSON file."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import TypeVar

from sap3d.errors import UserError
from sap3d.files import write_json
from sap3d.names import read_object_list
from sap3d.scene import Scene, check_views

T = TypeVar("T")


def argument_parser(description: str, views: list[str]) -> argparse.ArgumentParser:
    """What every ablation is asked; `views` are the default numbers of input images."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True, help="a file of lines TYPE OBJECT")
    parser.add_argument("--views", nargs="+", default=views)
    parser.add_argument("--in-turn", action="store_true", help="each object has one of the numbers of views, in turn")
    parser.add_argument("--variants", nargs="+", help="only these; by default all")
    parser.add_argument("--device", default="0", help="a CUDA index, or cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of sap3d.yaml, for all variants")
    return parser


def chosen_variants(arguments: argparse.Namespace, known: Mapping[str, T]) -> dict[str, T]:
    """The variants that are asked for, by default all.

    Raises:
        UserError: one of them is not known.
    """
    for name in arguments.variants or ():
        if name not in known:
            raise UserError(f"--variants: no '{name}' (there are {', '.join(known)})")
    return {name: known[name] for name in arguments.variants or known}


def read_sets(arguments: argparse.Namespace) -> dict[int, list[tuple[str, str]]]:
    """Number of views → the objects (type, name) that are tried with so many.

    Raises:
        UserError: no such list, or a number of views that there is not.
    """
    objects, counts = read_object_list(arguments.list), [check_views(views) for views in arguments.views]
    turns = len(counts) if arguments.in_turn else 1
    return {views: objects[i % turns :: turns] for i, views in enumerate(counts)}


class AblationTable:
    """Title → variant → "TYPE/OBJECT" → metrics; written after every row, so that a second start goes on."""

    def __init__(self, path: Path, columns: dict[str, str]):
        """Args: columns: metric → heading, of what `print` shows."""
        self.path, self.columns = path, columns
        self.titles = json.loads(path.read_text()) if path.exists() else {}

    def fill(self, title: str, variant: str, scene: Scene, evaluate: Callable[[], dict]) -> None:
        """Evaluate a variant on a scene, unless its row is there."""
        rows = self.titles.setdefault(title, {}).setdefault(variant, {})
        if f"{scene.type}/{scene.object}" in rows:
            return
        row = rows[f"{scene.type}/{scene.object}"] = evaluate()
        write_json(self.path, self.titles)
        print(f"{scene.type}/{scene.name}  {variant}: {row['psnr']:.2f} dB", flush=True)

    def print(self, *titles: str) -> None:
        """Means over the objects of all titles; "n/a" where no object has the metric."""
        print(f"\n{', '.join(titles):34s}" + "".join(f"{heading:>14s}" for heading in self.columns.values()))
        for variant in self.titles[titles[0]]:
            rows = [row for title in titles for row in self.titles[title].get(variant, {}).values()]
            values = ([row[key] for row in rows if row[key] is not None] for key in self.columns)
            print(f"{variant:34s}" + "".join(f"{mean(v):14.3f}" if v else f"{'n/a':>14s}" for v in values))

"""Print tables over objects from a results folder.

    python results_standard/run/summarize.py                                  # ROOT_DIR/results, text
    python results_standard/run/summarize.py --list dataset/benchmarks/scans8.txt --markdown
    python results_standard/run/summarize.py --results results_standard --latex
    python results_standard/run/summarize.py --results results_standard --compare results      # yours beside ours
    python results_standard/run/summarize.py --figure views.png                                # metrics over views
    python results_standard/run/summarize.py --write docs/RESULTS.md README.md       # these pages' tables, of ours

For each number of views: every object and their mean; then the means by number of views. "n/a" is a value that some
object lacks (LPIPS without its weights, own photos without ground truth); its mean is over the others. --compare shows
the objects that both folders have, and marks a mean difference of more than two standard errors over objects with "*".
--write replaces what stands between marker comments of a page (page_tables.py); results are then results_standard's
unless --results says otherwise.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev

from tables import (
    Column,
    Table,
    by_views,
    cell,
    format_latex,
    format_markdown,
    format_text,
    read_results,
    share_within,
)

from sap3d.errors import UserError, one_line_errors
from sap3d.files import REPOSITORY, root_dir
from sap3d.names import read_object_list

PICTURES = [("psnr", "PSNR", 2), ("ssim", "SSIM", 3), ("lpips", "LPIPS", 3), ("flip", "ꟻLIP", 3)]
GROUPS: dict[str, list[Column]] = {
    "Rotation error (°), after each stage and up to the object's symmetry": [
        *((f"rotation_error_stage{stage}", f"stage {stage}", 2) for stage in (1, 2, 3)),
        *((f"rotation_error_stage{stage}_symmetric", f"stage {stage} sym.", 2) for stage in (1, 2, 3)),
    ],
    "Pictures of the 84 test views: novel views (2D), field (3D)": [
        (f"{prefix}_{key}_mean", f"{prefix.upper()} {title}", digits)
        for prefix in ("2d", "3d")
        for key, title, digits in PICTURES
    ],
    "Mesh": [
        ("CD", "Chamfer", 4),
        ("IOU", "IoU", 3),
        ("F1_01", "F 0.04", 3),
        ("F1_02", "F 0.05", 3),
        ("F1_03", "F 0.06", 3),
    ],
    "Seconds": [
        (f"seconds.{stage}", stage.replace("_", " "), 0)
        for stage in ("data", "poses", "tuning", "novel_views", "reconstruction", "evaluation", "total")
    ],
}


def make_tables(results: list[dict]) -> list[Table]:
    """Tables of objects for every number of views, then of means over objects by number of views."""
    groups, tables = by_views(results), []
    for views, group in groups.items():
        tables += _object_tables(views, [r["name"] for r in group], group, cell)
    for title, columns in GROUPS.items():
        rows = [["views", "objects", *(heading for _, heading, _ in columns)]]
        for views, group in groups.items():
            rows.append([str(views), str(len(group)), *(cell(group, key, digits) for key, _, digits in columns)])
        tables.append((f"Means over objects: {title}", rows))
    return [*tables, _pose_table(groups)]


def _pose_table(groups: dict[int, list[dict]]) -> Table:
    rows = [["views", "mean", "median", "< 15°", "mean sym.", "median sym.", "< 15° sym."]]
    for views, group in groups.items():
        cells = []
        for key in ("rotation_error_stage3", "rotation_error_stage3_symmetric"):
            cells += [cell(group, key, 2), cell(group, key, 2, median), share_within(group, key, 15)]
        rows.append([str(views), *cells])
    return "Final rotation error (°) over objects", rows


def compare_tables(first: list[dict], second: list[dict]) -> list[Table]:
    """Both runs' values of the objects and numbers of views that both have, "first → second".

    Raises:
        UserError: they have none in common.
    """
    others = {(r["name"], r["views"]): r for r in second}
    pairs = [(r, others[r["name"], r["views"]]) for r in first if (r["name"], r["views"]) in others]
    if not pairs:
        raise UserError("--compare: the two folders have no object at the same number of views in common")
    tables = []
    for views in sorted({r["views"] for r, _ in pairs}):
        group = [pair for pair in pairs if pair[0]["views"] == views]
        tables += _object_tables(views, [r["name"] for r, _ in group], group, _compare)
    return tables


def _object_tables(views: int, names: list[str], group: list, cell: Callable[[list, str, int], str]) -> list[Table]:
    """A table for each group of metrics: every object's cells, then those of their mean."""
    tables = []
    for title, columns in GROUPS.items():
        rows = [["object", *(heading for _, heading, _ in columns)]]
        for name, members in [*((name, [one]) for name, one in zip(names, group)), ("mean", group)]:
            rows.append([name, *(cell(members, key, digits) for key, _, digits in columns)])
        tables.append((f"{views} view{'s' * (views > 1)}: {title}", rows))
    return tables


def _compare(pairs: list[tuple[dict, dict]], key: str, digits: int) -> str:
    both = [(a[key], b[key]) for a, b in pairs if a.get(key) is not None and b.get(key) is not None]
    if not both:
        return "n/a"
    differences = [b - a for a, b in both]
    noise = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("inf")
    mark = "*" if abs(mean(differences)) > 2 * noise else ""
    first, second = (mean(values) for values in zip(*both))
    return f"{first:.{digits}f} → {second:.{digits}f}{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="folder with TYPE/OBJECT/VIEWS/results.json (ROOT_DIR/results)")
    parser.add_argument("--list", type=Path, help="file of the objects to show, a line 'TYPE OBJECT' each")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="another run's results, shown beside these")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw metrics against the number of views as well")
    parser.add_argument("--write", type=Path, nargs="+", metavar="PAGE", help="fill in the pages' tables, and no more")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--latex", dest="format", action="store_const", const=format_latex, default=format_text)
    style.add_argument("--markdown", dest="format", action="store_const", const=format_markdown)
    with one_line_errors():
        arguments = parser.parse_args()
        if arguments.write:
            from page_tables import write

            for page in arguments.write:
                write(page, arguments.results or REPOSITORY / "results_standard")
                print(f"→ {page}")
            return
        objects = ["/".join(names) for names in read_object_list(arguments.list)] if arguments.list else None
        folder = arguments.results or root_dir() / "results"
        runs = {str(path): read_results(path, objects) for path in (folder, arguments.compare) if path}
        tables = compare_tables(*runs.values()) if len(runs) > 1 else make_tables(runs[str(folder)])
        print("\n\n".join(arguments.format(table) for table in tables))
        if arguments.figure:
            from figure import draw  # matplotlib is slow to import, and not all Pythons have it

            draw(runs, arguments.figure)
            print(f"\n→ {arguments.figure}")


if __name__ == "__main__":
    main()

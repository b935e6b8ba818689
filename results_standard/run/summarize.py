"""Print tables over objects from a results folder.

    python results_standard/run/summarize.py                                  # ROOT_DIR/results, text
    python results_standard/run/summarize.py --list dataset/benchmarks/scans8.txt --markdown
    python results_standard/run/summarize.py --results results_standard --latex
    python results_standard/run/summarize.py --results results_standard --compare results      # yours beside ours
    python results_standard/run/summarize.py --figure views.png                                # metrics over views

For each number of views: every object and their mean; then the means by number of views. "n/a" is a value that some
object lacks (LPIPS without its weights, own photos without ground truth); its mean is over the others. --compare shows
the objects that both folders have, and marks a mean difference of more than two standard errors over objects with "*".
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev

from sap3d.errors import UserError, one_line_errors
from sap3d.files import root_dir
from sap3d.names import read_object_list

Column = tuple[str, str, int]  # key in results.json, heading, digits
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
Table = tuple[str, list[list[str]]]  # title; rows of cells, the first of headings


def read_results(folder: Path, objects: list[str] | None) -> list[dict]:
    """All TYPE/OBJECT/VIEWS/results.json below a folder, with flat keys for the seconds.

    Args:
        objects: "TYPE/OBJECT" names to keep, in this order; None keeps all, by name.

    Raises:
        UserError: none found, or a file that is not such JSON.
    """
    results = []
    for path in sorted(folder.glob("*/*/*/results.json")):
        try:
            result = json.loads(path.read_text())
            result["name"] = f"{result['type']}/{result['object']}"
            seconds = result["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a results file ({error!r})") from error
        seconds = seconds | ({"total": sum(seconds.values())} if "reconstruction" in seconds else {})
        results.append(result | {f"seconds.{stage}": value for stage, value in seconds.items()})
    if objects is not None:
        results = sorted((r for r in results if r["name"] in objects), key=lambda r: objects.index(r["name"]))
    if not results:
        raise UserError(f"{folder}: no results.json of these objects; run run_pipeline.sh first")
    return results


def make_tables(results: list[dict]) -> list[Table]:
    """Tables of objects for every number of views, then of means over objects by number of views."""
    by_views = {views: [r for r in results if r["views"] == views] for views in sorted({r["views"] for r in results})}
    tables = []
    for views, group in by_views.items():
        tables += _object_tables(views, [r["name"] for r in group], group, _cell)
    for title, columns in GROUPS.items():
        rows = [["views", "objects", *(heading for _, heading, _ in columns)]]
        for views, group in by_views.items():
            rows.append([str(views), str(len(group)), *(_cell(group, key, digits) for key, _, digits in columns)])
        tables.append((f"Means over objects: {title}", rows))
    return [*tables, _pose_table(by_views)]


def _pose_table(by_views: dict[int, list[dict]]) -> Table:
    rows = [["views", "mean", "median", "< 15°", "mean sym.", "median sym.", "< 15° sym."]]
    for views, group in by_views.items():
        cells = []
        for key in ("rotation_error_stage3", "rotation_error_stage3_symmetric"):
            values = _values(group, key)
            share = f"{100 * mean(value < 15 for value in values):.0f} %" if values else "n/a"
            cells += [_cell(group, key, 2), f"{median(values):.2f}" if values else "n/a", share]
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


def _values(results: list[dict], key: str) -> list[float]:
    return [r[key] for r in results if r.get(key) is not None]


def _cell(results: list[dict], key: str, digits: int) -> str:
    values = _values(results, key)
    return f"{mean(values):.{digits}f}" if values else "n/a"


def format_text(table: Table) -> str:
    """Aligned columns."""
    title, rows = table
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    return "\n".join([title, *lines])


def format_markdown(table: Table) -> str:
    """A GitHub table under a bold title."""
    title, rows = table
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---|" + "--:|" * (len(rows[0]) - 1)
    return "\n".join([f"**{title}**", "", lines[0], rule, *lines[1:]])


def format_latex(table: Table) -> str:
    """A booktabs tabular with the title as a comment."""
    title, rows = table
    for plain, escaped in (("_", r"\_"), ("°", r"$^\circ$"), ("%", r"\%"), ("<", "$<$"), ("ꟻ", "F")):
        rows = [[cell.replace(plain, escaped) for cell in row] for row in rows]
    lines = [" & ".join(row) + r" \\" for row in rows]
    head = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join(
        [f"% {title}", head, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="folder with TYPE/OBJECT/VIEWS/results.json (ROOT_DIR/results)")
    parser.add_argument("--list", type=Path, help="file of the objects to show, a line 'TYPE OBJECT' each")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="another run's results, shown beside these")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw metrics against the number of views as well")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--latex", dest="format", action="store_const", const=format_latex, default=format_text)
    style.add_argument("--markdown", dest="format", action="store_const", const=format_markdown)
    with one_line_errors():
        arguments = parser.parse_args()
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

"""Results of a folder as tables: reading, cells, and the styles in which tables are printed."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from sap3d.errors import UserError

Column = tuple[str, str, int]  # key in results.json, heading, digits
Table = tuple[str | None, list[list[str]]]  # title; rows of cells, the first of headings


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


def by_views(results: list[dict]) -> dict[int, list[dict]]:
    """The results of every number of views, fewest first."""
    return {views: [r for r in results if r["views"] == views] for views in sorted({r["views"] for r in results})}


def values(results: list[dict], key: str) -> list[float]:
    """The values that there are of a key."""
    return [r[key] for r in results if r.get(key) is not None]


def cell(results: list[dict], key: str, digits: int, statistic: Callable[[list[float]], float] = mean) -> str:
    """A statistic of the values that there are, or "n/a"."""
    found = values(results, key)
    return f"{statistic(found):.{digits}f}" if found else "n/a"


def share_within(results: list[dict], key: str, bound: float) -> str:
    """How many of the values are below a bound, in percent, or "n/a"."""
    found = values(results, key)
    return f"{100 * mean(value < bound for value in found):.0f} %" if found else "n/a"


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
    """A GitHub table, under a bold title if it has one."""
    title, rows = table
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---|" + "--:|" * (len(rows[0]) - 1)
    return "\n".join([*([f"**{title}**", ""] if title else []), lines[0], rule, *lines[1:]])


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

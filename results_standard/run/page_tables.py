"""The tables of docs/RESULTS.md and README.md: what stands between two marker comments comes from result files.

    <!-- table: means dataset/benchmarks/scans8.txt -->
    <!-- end of table -->

The first word names a function of KINDS, the second a list of objects below the repository, or a JSON file of the
results folder; further words are the function's own.
"""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import mean, median

from tables import Column, by_views, cell, format_markdown, read_results, share_within, values

from sap3d.errors import UserError
from sap3d.files import REPOSITORY, atomic_file
from sap3d.names import read_object_list

MARKED = re.compile(r"(<!-- table: ([^\n]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
ROTATION, SYMMETRIC = "rotation_error_stage3", "rotation_error_stage3_symmetric"
PICTURES: list[Column] = [("2d_psnr_mean", "2D PSNR (dB)", 1), ("3d_psnr_mean", "3D PSNR (dB)", 1)]
LIKENESS: list[Column] = [("3d_ssim_mean", "3D SSIM", 3), ("3d_flip_mean", "3D ꟻLIP", 3)]
MESH: list[Column] = [("CD", "Chamfer", 4), ("IOU", "IoU", 3)]
SMALLER_IS_BETTER = ("CD", "3d_flip_mean", ROTATION)
# What docs/RESULTS.md measures itself by: metric → number of photos → value; by the stem of the list of objects.
AIMS = {
    "scans8": {
        "3d_psnr_mean": {1: 20.0, 2: 22.0, 3: 24.0, 5: 26.5},
        "CD": {5: 0.015},
        "IOU": {2: 0.58, 3: 0.65, 5: 0.72},
    },
    "models12": {
        "3d_psnr_mean": {1: 18.0, 2: 20.0, 3: 22.0, 5: 24.0},
        "CD": {5: 0.015},
        "IOU": {2: 0.58, 3: 0.65, 5: 0.72},
    },
}
# SAP3D's own means over 20 objects, of its results_standard (github.com/sap3d/sap3d): rotation error in degrees, its
# median, percent below 15°, 2D and 3D PSNR, Chamfer distance, volume IoU; by number of photos.
ORIGINAL = {
    2: (23.4, 11.3, 63, 17.6, 18.0, 0.041, 0.51),
    3: (19.2, 5.9, 76, 18.2, 18.5, 0.024, 0.57),
    4: (4.5, 3.8, 100, 19.4, 19.6, 0.023, 0.67),
    5: (4.4, 4.4, 100, 19.5, 19.8, 0.019, 0.68),
}
Rows = list[list[str]]


def means(results: list[dict], name: str) -> Rows:
    """Means over objects by number of photos."""
    columns = [*PICTURES, *LIKENESS, *MESH]
    rows = [["photos", "rotation error (°)", "its median", "< 15°", "up to symmetry (°)", *(c[1] for c in columns)]]
    for views, group in by_views(results).items():
        poses = [cell(group, ROTATION, 1), cell(group, ROTATION, 1, median), share_within(group, ROTATION, 15)]
        poses.append(cell(group, SYMMETRIC, 1))
        rows.append([str(views), *poses, *(cell(group, key, digits) for key, _, digits in columns)])
    return rows


def brief(results: list[dict], name: str) -> Rows:
    """A few of `means`."""
    poses = ["rotation error (°)", "its median"]
    rows = [["photos", *poses, "PSNR of new views (dB)", "Chamfer distance", "volume IoU"]]
    for views, group in by_views(results).items():
        cells = [cell(group, ROTATION, 1), cell(group, ROTATION, 1, median), cell(group, "3d_psnr_mean", 1)]
        cells += [cell(group, key, digits) for key, _, digits in MESH]
        rows.append([str(views), *cells])
    return rows


def objects(results: list[dict], name: str, views: str) -> Rows:
    """Every object at one number of photos."""
    columns = [(ROTATION, "rotation error (°)", 1), (SYMMETRIC, "up to symmetry", 1), *PICTURES, *LIKENESS, *MESH]
    rows = [["object", *(heading for _, heading, _ in columns)]]
    group = [r for r in results if str(r["views"]) == views]
    for title, members in [*((r["object"], [r]) for r in group), ("mean", group)]:
        rows.append([title, *(cell(members, key, digits) for key, _, digits in columns)])
    return rows


def cost(known: dict, name: str) -> Rows:
    """Seconds of every stage and the most resident memory by number of photos, from benchmarks/cost.py's file."""
    names = next(iter(known["photos"].values()))
    rows = [["photos", *(stage.replace("_", " ") for stage in names), "total", "memory (GB)"]]
    for views, stages in known["photos"].items():
        seconds = [stage["seconds"] for stage in stages.values()]
        most = max(stage["gb"] for stage in stages.values())
        rows.append([views, *(f"{value:.0f}" for value in (*seconds, sum(seconds))), f"{most:.1f}"])
    return rows


def aims(results: list[dict], name: str) -> Rows:
    """Means beside what was aimed at, and which means get better with every photo."""
    groups, rows = by_views(results), [["", "photos", "aimed at", "measured", "met"]]
    for key, title, digits in [*PICTURES, *MESH]:
        aimed = AIMS.get(name, {}).get(key, {})
        aimed = {views: aim for views, aim in aimed.items() if values(groups.get(views, []), key)}
        if aimed:
            found = {views: mean(values(groups[views], key)) for views in aimed}
            met = [views for views, aim in aimed.items() if _better(key, found[views], aim)]
            said = "yes" if len(met) == len(aimed) else f"with {_listed(met)}" if met else "no"
            wanted, reached = (_listed(f"{value:.{digits}f}" for value in row.values()) for row in (aimed, found))
            least = "at most" if key in SMALLER_IS_BETTER else "at least"
            rows.append([title, _listed(aimed), f"{least} {wanted}", reached, said])
    columns = [*PICTURES, *LIKENESS, *MESH, (ROTATION, "rotation error", 1)]
    missed = [title.removesuffix(" (dB)") for key, title, _ in columns if not _improves(groups, key)]
    said = f"all but {_listed(missed)}" if missed else "all"
    rows.append(["means that get better with every photo", _listed(groups), "all", said, "no" if missed else "yes"])
    return rows


def original(results: list[dict], name: str) -> Rows:
    """Our means beside the original's, with as many digits; poses up to symmetry in brackets."""
    rest = [*PICTURES, *((key, title, digits - 1) for key, title, digits in MESH)]
    rows = [["photos", "", "rotation error (°)", "its median", "< 15°", *(title for _, title, _ in rest)]]
    for views, group in by_views(results).items():
        if views not in ORIGINAL:
            continue
        error, middle, share, *others = ORIGINAL[views]
        told = [f"{value:.{digits}f}" for value, (_, _, digits) in zip(others, rest)]
        rows.append([str(views), "original", f"{error:.1f}", f"{middle:.1f}", f"{share} %", *told])
        plain, alike = ([cell(group, key, 1), cell(group, key, 1, median), share_within(group, key, 15)]
                        for key in (ROTATION, SYMMETRIC))  # fmt: skip
        poses = [f"{first} ({second})" for first, second in zip(plain, alike)]
        rows.append(["", "ours", *poses, *(cell(group, key, digits) for key, _, digits in rest)])
    return rows


def runs(results: list[dict], name: str) -> str:
    """A sentence on what the rows of a set are of."""
    machines = Counter(f"{r['machine']['cpu']} × {r['machine']['cores']}" for r in results)
    commits, seeds = {r["commit"] for r in results}, sorted({r["seed"] for r in results})
    states = "one state" if len(commits) == 1 else f"{len(commits)} states"
    where = _listed(f"{machine} ({count} runs)" for machine, count in machines.most_common())
    return f"{len(results)} runs at {states} of the code, seed {_listed(seeds)}. Processor × cores: {where}.\n"


KINDS = {kind.__name__: kind for kind in (means, brief, objects, cost, aims, original, runs)}


def _listed(parts) -> str:
    return ", ".join(str(part) for part in parts)


def _better(key: str, value: float, than: float) -> bool:
    return value <= than if key in SMALLER_IS_BETTER else value >= than


def _improves(groups: dict[int, list[dict]], key: str) -> bool:
    found = [mean(known) for group in groups.values() if (known := values(group, key))]
    return all(_better(key, more, fewer) for fewer, more in zip(found, found[1:]))


def fill(text: str, folder: Path) -> str:
    """The page with its tables of a results folder.

    Raises:
        UserError: no such kind of table, no such list, or no results of its objects.
    """

    def table(match: re.Match) -> str:
        kind, path, *further = match[2].split()
        if kind not in KINDS:
            raise UserError(f"table: {match[2]}: there is no '{kind}' (there are {_listed(KINDS)})")
        if path.endswith(".json"):
            known = json.loads((folder / path).read_text())
        else:
            known = read_results(folder, ["/".join(names) for names in read_object_list(REPOSITORY / path)])
        made = KINDS[kind](known, Path(path).stem, *further)
        written = made if isinstance(made, str) else format_markdown((None, made)) + "\n"
        return f"{match[1]}{written}{match[4]}"

    return MARKED.sub(table, text)


def write(page: Path, folder: Path) -> None:
    """`fill` a page in place.

    Raises:
        UserError: as of `fill`, or the page has no table.
    """
    text = page.read_text()
    if not MARKED.search(text):
        raise UserError(f"{page}: no '<!-- table: … -->' that ends with '<!-- end of table -->'")
    filled = fill(text, folder)
    with atomic_file(page) as partial:
        partial.write_text(filled)

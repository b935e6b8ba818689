"""run_pipeline.py around a stand-in for run_pipeline.sh, whose jobs are told by their names what to do."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
STAND_IN = r"""
folder=$ROOT_DIR/results/$1/$2/$3
echo "start $2 $3${6:+ $6}${8:+ $8}" >>"$ROOT_DIR/starts"
echo "$4" >"$folder/device"
echo "[1/2] first"
case $2 in
    broken) echo "error: this one never works"; exit 3 ;;
    shaky) [ -e "$folder/again" ] || { touch "$folder/again"; echo "error: not yet"; exit 1; } ;;
    slow) sleep 0.2; echo "[2/2] second"; sleep 3 ;;
    endless) sleep 1000 & echo $! >"$ROOT_DIR/child"; wait ;;
esac
shift 4
options=
while [ $# -gt 0 ]; do
    case $1 in
        --input) shift ;;
        *) options="$options${options:+, }\"$1\"" ;;
    esac
    shift
done
cat >"$folder/part" <<END
{"seed": $SEED, "options": [$options], "3d_psnr_mean": 20.5, "seconds": {"poses": 1.5}, "threads": $OMP_NUM_THREADS}
END
mv "$folder/part" "$folder/results.json"
"""


def copy_launcher(folder: Path) -> Path:
    """Copy run_pipeline.py and what it needs to a folder, with the stand-in; returns the folder."""
    runs = [f"runs/{module}" for module in ("__init__", "cores", "jobs", "launch_ray", "launch_slurm", "slots")]
    modules = ("__init__", "errors", "files", "names", *runs)
    for name in ("run_pipeline.py", *(f"sap3d/{module}.py" for module in modules)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    (folder / "run_pipeline.sh").write_text(STAND_IN)
    return folder

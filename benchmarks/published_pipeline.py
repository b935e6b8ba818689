"""All stages on a card, at full size with random weights: seconds and peak memory by stage.

    python benchmarks/published_pipeline.py --root runs/card --device 0          # published, then embedded: five photos
    python benchmarks/published_pipeline.py --root runs/card --device cpu --tiny --backbones published

Below --root (ROOT_DIR) it makes what is missing: a toy's photos and, with random weights, the two checkpoints where the
published backbone looks for them. It then runs run_pipeline.sh. Seconds are those of each stage's last run: what is up
to date is not run again. Memory is what nvidia-smi says of the whole card, on the CPU that of all processes.
"""

import argparse
import json
import os
import re
import subprocess
import threading
from pathlib import Path

from benchmarks.published_weights import OPTIONS, TINY, write_relposepp, write_zero123
from camerabooth.backbones.published.networks import Architecture
from dataset.prepare import prepare
from relposepp.published import BLOCKS, DEPTH
from sap3d.errors import UserError, one_line_errors
from sap3d.files import REPOSITORY
from sap3d.scene import Scene

TYPE, OBJECT = "toy_demo", "toy_000"
ZERO123, RELPOSEPP = "camerabooth/weights/zero123-xl.ckpt", "relposepp/weights/ckpt_000105000.pth"
HEADER = re.compile(r"\[\d/\d\] (\w+)")
PAUSE = 0.2  # seconds between two looks at the memory


def make_weights(root: Path, tiny: bool) -> None:
    """The two checkpoints, unless they are there."""
    for name in (ZERO123, RELPOSEPP):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    if not (root / ZERO123).exists():
        write_zero123(root / ZERO123, TINY if tiny else Architecture())
    if not (root / RELPOSEPP).exists():
        write_relposepp(root / RELPOSEPP, 0, *(() if tiny else (BLOCKS, DEPTH)))


def used_gb(device: str, leader: int) -> float:
    """Memory in use on the device, GB: of the card, or of a session's processes."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", device]
    unit = 1024
    if device == "cpu":
        query, unit = ["ps", "-o", "rss=", "--sid", str(leader)], 1024**2
    return sum(map(float, subprocess.run(query, capture_output=True, text=True).stdout.split())) / unit


def run(root: Path, command: list[str], device: str) -> dict[str, float]:
    """Run the pipeline and show what it says.

    Returns:
        The most memory in use during each stage, GB.

    Raises:
        UserError: it failed.
    """
    environment, peaks, stage = os.environ | {"ROOT_DIR": str(root)}, {}, "start"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **pipe)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PAUSE):
            peaks[stage] = max(peaks.get(stage, 0.0), used_gb(device, process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for line in process.stdout:
        print(line, end="", flush=True)
        if header := HEADER.match(line):
            stage = header[1]
    ended.set()
    watcher.join()
    if process.wait():
        raise UserError(f"{' '.join(command)}: ended with exit status {process.returncode}")
    return peaks


def short(backbone: str) -> list[str]:
    """Options that make every stage short; the model's are the published one's own."""
    return [option for option in OPTIONS if backbone == "published" or not option.startswith("model.")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="ROOT_DIR")
    parser.add_argument("--device", default="0", help="nvidia-smi's index, or cpu")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=["published", "embedded"])
    parser.add_argument("--tiny", action="store_true", help="the tests' sizes, to try the script")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    os.environ["ROOT_DIR"] = str(root)
    make_weights(root, arguments.tiny)
    prepare(TYPE, OBJECT, arguments.views)
    results = Scene(TYPE, OBJECT, arguments.views).results
    table = []
    for backbone in arguments.backbones:
        command = ["sh", "run_pipeline.sh", TYPE, OBJECT, str(arguments.views), arguments.device]
        command += ["--backbone", backbone, *(short(backbone) if arguments.tiny else [])]
        peaks = run(root, command, arguments.device)
        seconds = {name: stage["seconds"] for name, stage in json.loads((results / "stages.json").read_text()).items()}
        rows = [(name, spent, peaks.get(name, 0.0)) for name, spent in seconds.items()]
        rows += [("all", sum(seconds.values()), max(peaks.values()))]
        table += [f"{backbone:10s} {name:16s} {spent:8.1f} s {memory:7.2f} GB" for name, spent, memory in rows]
    print("\n".join(table))


if __name__ == "__main__":
    with one_line_errors():
        main()

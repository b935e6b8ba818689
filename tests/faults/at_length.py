"""Faults at length, which pytest does not collect: random kills, many pipelines at once, and a disk that is full.

    .venv/bin/python tests/faults/at_length.py kills --count 30
    .venv/bin/python tests/faults/at_length.py launchers --count 10
    .venv/bin/python tests/faults/at_length.py together --pipelines 8 --minutes 30
    .venv/bin/python tests/faults/at_length.py full_disk      # as root, who may mount a small file system

All run the real pipeline (run_pipeline.sh DEMO toy_000 2 cpu --input … --preset fast) on photos of procedural objects,
with small test views as each run is evaluated, and print a line for each run. The exit status is 1 when anything is
not as docs/RELIABILITY.md promises. Set OMP_NUM_THREADS: results are the same to the bit for one number of threads.
"""

import argparse
import ctypes
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from safetensors.numpy import load_file

from dataset.prepare import train_cameras
from dataset.render import Renderer
from dataset.toys import make_toy, toy_seed
from sap3d.cameras.maths import evaluation_grid
from sap3d.runs.stages import REPOSITORY, declare
from sap3d.scene import Scene
from sap3d.views import write_view

STAGES = ("data", "poses", "tuning", "novel_views", "reconstruction", "evaluation")
VARYING = ("seconds", "machine", "commit")  # of results.json; all else must be equal to the last bit
DISK = 256  # megabytes of the small file system
SILENCE = 600  # seconds without a line or a bar after which a run is stuck
FLAT = 1.25  # the memory's last peak over the one before
LIFE = 15  # kills that one ROOT_DIR lives through
HEADER = re.compile(r"^\[\d/6\] (\w+)$", re.MULTILINE)
BUSY = "works on it"
NO_SPACE = re.compile(r"error: (/\S+): No space left on device")


def begin(root: Path, name: str = "toy_000") -> Scene:
    """A scene before any stage: photos outside of it, and the ground truth, with test views of 64 pixels."""
    scene, mesh = Scene("DEMO", name, 2, root), make_toy(toy_seed(name))
    train = train_cameras("toy_demo", name)[: scene.views]
    for folder, cameras, size in ((photos(scene), train, 256), (scene.test, evaluation_grid(train[0]), 64)):
        for index, image in enumerate(Renderer(mesh).render(cameras, size)):
            write_view(folder, index, image, cameras[index])
    scene.train.mkdir(parents=True)
    shutil.copytree(photos(scene) / "poses", scene.train / "poses")
    scene.mesh_folder.mkdir(parents=True)
    mesh.export(scene.mesh_folder / "mesh.ply")
    return scene


def photos(scene: Scene) -> Path:
    return scene.root / "photos" / scene.object


class Run:
    """A run of the pipeline in a session of its own, with its own log."""

    def __init__(self, scene: Scene, *options: str, seed: int = 0):
        self.log = scene.root.with_name(f"{scene.root.name}_{scene.object}.log")  # not on the disk that is full
        environment = os.environ | {"ROOT_DIR": str(scene.root), "SEED": str(seed)}
        command = ["sh", REPOSITORY / "run_pipeline.sh", scene.type, scene.object, str(scene.views), "cpu"]
        command += ["--input", photos(scene) / "images", "--preset", "fast", *options]
        self.start = time.monotonic()
        self.log.unlink(missing_ok=True)  # what an earlier run has left may still write there
        with self.log.open("wb") as log:
            self.shell = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n")

    def wait(self) -> int:
        """The exit status, once the last process has ended, orphans too."""
        status = self.shell.wait()
        while self.processes():
            time.sleep(0.2)
        self.seconds = time.monotonic() - self.start
        return status

    def processes(self) -> list[int]:
        """All that live in the session."""
        living = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:  # has ended meanwhile
                continue
            if int(session) == self.shell.pid and state != "Z":
                living.append(int(path.parent.name))
        return living

    def memory(self) -> int:
        """Resident bytes of all its processes; what they share counts for each."""
        pages = 0
        for process in self.processes():
            try:
                pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
            except OSError:
                pass
        return pages * os.sysconf("SC_PAGE_SIZE")

    def reach(self, stage: str, seconds: float) -> bool:
        """Wait until it has been in a stage for so long; whether it still lives then."""
        while self.shell.poll() is None and stage not in HEADER.findall(self.text()):
            time.sleep(0.1)
        deadline = time.monotonic() + seconds
        while self.shell.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.shell.poll() is None

    def kill(self, group: bool, rng: random.Random) -> str:
        """Kill the whole session, or one process in it; returns which."""
        victims = self.processes()
        if not group:
            victims = [rng.choice(victims)]
        names = []
        for victim in victims:
            try:
                words = Path(f"/proc/{victim}/cmdline").read_text().split("\0")
                os.kill(victim, signal.SIGKILL)
            except OSError:
                continue
            names.append(Path(words[2 if words[1:2] == ["-m"] else 1 if "python" in words[0] else 0]).name)
        return "all" if group else " ".join(names)

    def stages_run(self) -> list[str]:
        """The stages that were not up to date, and where training went on."""
        parts = HEADER.split(self.text())[1:]
        found = []
        for name, text in zip(parts[::2], parts[1::2]):
            if "up to date" not in text and (name != "data" or "%|" in text):
                resumed = re.search(r"resuming from step (\d+)", text)
                found.append(f"{name} from step {resumed[1]}" if resumed else name)
        return found


def metrics(scene: Scene) -> dict:
    """results.json without what differs from run to run."""
    results = json.loads((scene.results / "results.json").read_text())
    return {key: value for key, value in results.items() if key not in VARYING}


def written(scene: Scene, stage: str) -> list[Path]:
    """What a stage has written: files and folders."""
    if stage == "data":
        return [scene.train / name for name in ("images", "photos.json", "contact_sheet.png")]
    if stage == "evaluation":
        return [scene.results / "results.json", scene.results / "report.html"]
    return declare(scene)[stage].outputs


def remove(paths: list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def digests(paths: list[Path]) -> dict[Path, str]:
    """SHA-256 of files, and of those in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files) if file.is_file()}


def flaws(scene: Scene) -> list[str]:
    """Files below ROOT_DIR that cannot be read, and what should not have been left."""
    readers = {
        ".json": lambda path: json.loads(path.read_text()),
        ".png": lambda path: Image.open(path).load(),
        ".npy": lambda path: np.load(path, allow_pickle=False),
        ".safetensors": load_file,
        **dict.fromkeys((".ply", ".obj", ".glb"), trimesh.load),
    }
    found = []
    for path in scene.root.rglob("*"):
        name = str(path.relative_to(scene.root))
        if (path.name.startswith(".") and path.name not in (".run", ".lock")) or path.suffix == ".ckpt":
            found.append(f"{name} is left")
        elif path.is_file() and path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception as error:  # whatever the readers raise, it is the finding
                found.append(f"{name} cannot be read ({error})")
        elif path.suffix in (".html", ".mp4") and not path.stat().st_size:
            found.append(f"{name} is empty")
    return found


def differences(scene: Scene, expected: dict | None) -> list[str]:
    """Metrics that are not what they were, if these are known."""
    got = metrics(scene)
    return [f"{key} is {got.get(key)}, not {value}" for key, value in (expected or {}).items() if got.get(key) != value]


def judge(scene: Scene, status: int, expected: dict | None) -> list[str]:
    """What is not as it should be after a run that should have completed."""
    return differences(scene, expected) + flaws(scene) if status == 0 else [f"exit {status}"]


def complete(scene: Scene) -> tuple[Run, int]:
    """An undisturbed run to the end."""
    run = Run(scene)
    return run, run.wait()


def reference(root: Path) -> tuple[Scene, dict]:
    """A scene that has gone through undisturbed, and its metrics; taken as it is where it is up to date."""
    folder = root / "reference"
    scene = Scene("DEMO", "toy_000", 2, folder) if folder.exists() else begin(folder)
    run, status = complete(scene)
    wrong = judge(scene, status, None)
    print(f"reference: {run.seconds:.0f} s, {', '.join(run.stages_run())} run", *wrong, sep="; ", flush=True)
    if wrong:
        sys.exit(f"{run.text()[-2000:]}\nthe reference failed")
    return scene, metrics(scene)


def kills(arguments: argparse.Namespace) -> int:
    """Kill runs at random moments of every stage in turn; each kill is followed by the same command, and a check.

    A ROOT_DIR begins empty; its first run is killed and completed, and later runs have lost what one stage wrote.
    """
    rng = random.Random(arguments.seed)
    whole, expected = reference(arguments.root)
    seconds = json.loads((whole.results / "results.json").read_text())["seconds"]
    failures = refused = 0
    print("kill  moment                victim            redone by the completion            seconds  result")
    for number in range(arguments.count):
        scene = Scene(whole.type, whole.object, whole.views, arguments.root / f"life_{number // LIFE}")
        fresh = number % LIFE == 0
        if fresh:
            shutil.rmtree(scene.root, ignore_errors=True)
            begin(scene.root)
        stage = STAGES[(number + number // LIFE) % len(STAGES)] if not fresh else rng.choice(STAGES[1:5])
        if not fresh:
            remove(written(scene, stage))
        run, moment = Run(scene), rng.random() * seconds[stage]
        while not run.reach(stage, moment):
            if run.wait():
                sys.exit(f"{run.text()[-2000:]}\nfailed before it was killed")
            remove(written(scene, stage))  # it was quicker than the reference: once more, killed earlier
            run, moment = Run(scene), rng.random() * moment
        victim = run.kill(group=number % 2 == 0, rng=rng)
        run.shell.wait()
        again, status = complete(scene)
        if status and BUSY in again.text():  # what the killed process has left works on
            refused += 1
            run.wait()
            again, status = complete(scene)
        wrong = judge(scene, status, expected)
        failures += bool(wrong)
        print(
            f"{number + 1:4}  {stage:14} {moment:5.1f} s  {victim:16}  {', '.join(again.stages_run()):34}  "
            f"{again.seconds:7.0f}  {'; '.join(wrong) or 'equal'}", flush=True,
        )  # fmt: skip
        if wrong:
            shutil.copytree(scene.root, arguments.root / f"failed_{number + 1}", dirs_exist_ok=True)
    print(f"{arguments.count} kills: {arguments.count - failures} completions that equal the undisturbed run; "
          f"{refused} first refused while orphans worked")  # fmt: skip
    return failures


class Sweep:
    """run_pipeline.py over all scenes, on its own slots or on Ray's, with its log."""

    def __init__(self, root: Path, number: int, ray: bool):
        self.root, self.ray = root, ray
        self.log = root.with_name(f"{root.name}_{number}.log")
        command = [sys.executable, REPOSITORY / "run_pipeline.py", "--object_type", "DEMO", "--input_dir", root / "own"]
        command += ["--views", "2", "--preset", "fast", "--cpu", *["--ray"] * ray]
        with self.log.open("wb") as log:
            environment = os.environ | {"ROOT_DIR": str(root)}
            self.launcher = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def children(self) -> dict[int, int]:
        """Processes of jobs, which alone have a SEED in their environment, and their parents."""
        found, mark = {}, f"ROOT_DIR={self.root}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:  # has ended meanwhile
                continue
            if mark in variables and b"SEED=0" in variables and state != "Z":
                found[int(path.name)] = int(parent)
        return found

    def victims(self) -> dict[str, list[int]]:
        """What may be killed now."""
        children = self.children()
        return {
            "launcher": [self.launcher.pid],
            "child": list(children),
            "worker": [parent for parent in {*children.values()} if is_worker(parent)],
        }

    def kill(self, kind: str, seconds: float, rng: random.Random) -> bool:
        """Kill one of a kind after so many seconds; false if the sweep has ended by then, or there is none."""
        try:
            self.launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            if pool := self.victims()[kind]:
                os.kill(rng.choice(pool), signal.SIGKILL)
                return True
        return False


def is_worker(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def launchers(arguments: argparse.Namespace) -> int:
    """Kill run_pipeline.py, a process of its jobs or a Ray worker at random moments, and start it until all is done.

    Sweeps run on the launcher's own slots and on Ray in turn. What is done must stay as it is, byte and time.
    """
    rng = random.Random(arguments.seed)
    _, expected = reference(arguments.root)
    root = arguments.root / "sweep"
    shutil.rmtree(root, ignore_errors=True)
    scenes = [begin(root, f"toy_{number:03}") for number in range(arguments.objects)]
    (root / "own").mkdir()
    for scene in scenes:
        (root / "own" / scene.object).symlink_to(photos(scene) / "images")
    done: dict[Path, tuple] = {}
    killed, starts, status, changed = [], 0, None, []
    while status != 0 and starts <= 2 * arguments.count:
        starts += 1
        sweep = Sweep(root, starts, ray=starts % 2 == 0)
        kinds = itertools.cycle(("worker", "child", "worker", "launcher") if sweep.ray else ("child", "launcher"))
        while len(killed) < arguments.count and sweep.launcher.poll() is None:
            changed += note_results(scenes, done)
            kind = next(kinds)
            if sweep.kill(kind, rng.uniform(5, arguments.pause), rng):
                killed.append(kind)
                print(f"kill {len(killed)}: {kind}, {len(done)} of {len(scenes)} done", flush=True)
        status = sweep.launcher.wait()
        changed += note_results(scenes, done)
        print(f"start {starts}, on {'Ray' if sweep.ray else 'slots'}: exit {status}, {len(done)} done", flush=True)
    wrong = changed + [f"{scene.object} is not done" for scene in scenes if scene.results / "results.json" not in done]
    wrong = wrong or differences(scenes[0], expected) + flaws(scenes[0])
    print(f"{len(killed)} kills, {starts} starts: {len(done)} of {len(scenes)} done; {'; '.join(wrong) or 'all whole'}")
    return len(wrong) + (status != 0)


def note_results(scenes: list[Scene], done: dict[Path, tuple]) -> list[str]:
    """Note the results that are there; returns those noted before that are not what they were."""
    changed = []
    for path in (scene.results / "results.json" for scene in scenes):
        found = (path.stat().st_mtime_ns, path.read_bytes()) if path.exists() else None
        if path in done and found != done[path]:
            changed.append(f"{path} was done and has changed")
        if found:
            done[path] = found
    return changed


def together(arguments: argparse.Namespace) -> int:
    """Many pipelines under one ROOT_DIR, each begun again when it ends, and their memory."""
    end = time.monotonic() + 60 * arguments.minutes
    root = arguments.root / "together"
    scenes = [begin(root, f"toy_{seed:03}") for seed in range(arguments.pipelines)]
    running: dict[int, Run] = {}
    known: dict[int, dict] = {}
    rounds, failures, memory = [0] * len(scenes), 0, []
    for seed, scene in enumerate(scenes):
        running[seed] = Run(scene, "--force", seed=seed)
    while running:
        time.sleep(3)
        if time.monotonic() < end:
            memory.append(sum(run.memory() for run in running.values()))
        for seed, run in list(running.items()):
            silent = time.time() - run.log.stat().st_mtime
            if run.shell.poll() is None and silent < SILENCE:
                continue
            if run.shell.poll() is None:
                run.kill(group=True, rng=random.Random())
            status, scene = run.wait(), scenes[seed]
            # The files are looked at in the end: now others write beside them.
            wrong = (
                [f"exit {status}, after {silent:.0f} s of silence"] if status else differences(scene, known.get(seed))
            )
            if not wrong:
                known.setdefault(seed, metrics(scene))
                if (known[seed]["object"], known[seed]["seed"]) != (scene.object, seed):
                    wrong = ["the results are of another scene"]
            rounds[seed] += not wrong
            failures += bool(wrong)
            print(
                f"{scene.object}, round {rounds[seed]}: {run.seconds:.0f} s, {'; '.join(wrong) or 'whole'}", flush=True
            )
            del running[seed]
            if time.monotonic() < end and not wrong:
                running[seed] = Run(scene, "--force", seed=seed)
    left = flaws(scenes[0])
    names = ("Rotation Error", "2d_psnr_mean", "3d_psnr_mean", "CD")
    distinct = len({tuple(result[name] for name in names) for result in known.values()})
    third = len(memory) // 3
    peaks = [max(part) / 1024**3 for part in (memory[:third], memory[third : 2 * third], memory[2 * third :])]
    flat = peaks[2] <= FLAT * peaks[1]
    print(f"{len(scenes)} pipelines, {sum(rounds)} rounds, {min(rounds)} to {max(rounds)} each; {distinct} distinct "
          f"results; {'; '.join(left) or 'nothing is left over'}\nmemory, peaks of the thirds of the time: "
          f"{', '.join(f'{peak:.2f}' for peak in peaks)} GiB: the last is {'' if flat else 'NOT '}at most {FLAT} times "
          "the second")  # fmt: skip
    return failures + len(left) + (not flat) + (min(rounds) == 0) + (distinct < len(scenes))


def mount(folder: Path, megabytes: int) -> str | None:
    """Mount a file system of that size in memory, which ends with this process; or why that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS
        return os.strerror(ctypes.get_errno())
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "t", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip()
    return None


def full_disk(arguments: argparse.Namespace) -> int:
    """Every stage meets a disk that becomes full when half is written; with room again, the same command completes."""
    whole, expected = reference(arguments.root)
    folder = arguments.root / "small"
    folder.mkdir(exist_ok=True)
    if reason := mount(folder, DISK):
        print(f"{folder}: no small file system can be mounted ({reason})")
        return 1
    shutil.copytree(whole.root, folder, dirs_exist_ok=True)
    scene, filler, failures = Scene(whole.type, whole.object, whole.views, folder), folder / "filler", 0
    for stage in STAGES:
        lost = written(scene, stage)
        room = sum(file.stat().st_size for file in digests(lost)) // 2
        remove(lost)
        before = digests([folder])
        fill(filler, room)
        run = Run(scene)
        status, text = run.wait(), run.text()
        filler.unlink()
        lines = [line for line in text.splitlines() if line.startswith("error:")]
        after = digests([folder])
        # What each run notes of itself, and tuning's diary, may have changed.
        kept = [path for path in before if path.name not in (".run", "stages.json") and "log" not in path.parts]
        wrong = [f"{path} has changed" for path in kept if after.get(path) != before[path]]
        wrong += [f"{path} is left" for path in folder.rglob("*.partial*")]
        if status == 0 or "Traceback" in text or len(lines) != 1 or not NO_SPACE.match(lines[0]):
            wrong += [f"exit {status}", *text.splitlines()[-5:]]
        print(f"{stage:14}  with room for half: {'; '.join(wrong) or lines[0]}", flush=True)
        failures += bool(wrong)
        run, status = complete(scene)
        wrong = judge(scene, status, expected)
        failures += bool(wrong)
        print(f"{stage:14}  with room again: {', '.join(run.stages_run())}; {'; '.join(wrong) or 'equal'}", flush=True)
    return failures


def fill(filler: Path, room: int) -> None:
    """Write a file until the disk is full, but for so many bytes."""
    with filler.open("wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(block)) == block:
                    pass
            except OSError:
                pass
        file.truncate(filler.stat().st_size - room)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, help="folder to work in; a reference that is there is taken (default: new)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function in (kills, launchers, together, full_disk):
        command = commands.add_parser(function.__name__, help=function.__doc__.splitlines()[0])
        command.set_defaults(function=function)
        if function in (kills, launchers):
            command.add_argument("--count", type=int, default=30 if function is kills else 10)
            command.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
        if function is launchers:
            command.add_argument("--objects", type=int, default=6)
            command.add_argument("--pause", type=float, default=60.0, help="seconds between two kills, at most")
        if function is together:
            command.add_argument("--pipelines", type=int, default=8)
            command.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.root:
        arguments.root.mkdir(parents=True, exist_ok=True)
        arguments.root = arguments.root.resolve()
        return min(1, arguments.function(arguments))
    with tempfile.TemporaryDirectory(prefix="at_length_") as folder:
        arguments.root = Path(folder)
        return min(1, arguments.function(arguments))


if __name__ == "__main__":
    sys.exit(main())

"""Jobs of run_pipeline.py as a Slurm job array: a script for sbatch, one array task a job.

Each task runs run_pipeline.py for its one job, so locks, skips and the second attempt are the same. The array leaves
results/summary.json alone: run_pipeline.py without --slurm writes it when the array has ended.
"""

import argparse
import shlex
import shutil
import subprocess
import sys

from sap3d.errors import UserError
from sap3d.files import root_dir
from sap3d.runs.jobs import REPOSITORY, Job, stage_options
from sap3d.runs.slots import JOB_GB

SCRIPT = """#!/bin/sh
#SBATCH --job-name=sap3d
#SBATCH --array=0-{last}{at_once}
#SBATCH --cpus-per-task={cores}
#SBATCH {device}
#SBATCH --requeue
#SBATCH --output=/dev/null
# What a task says is in results/TYPE/OBJECT/VIEWS/slurm.log, the pipeline's own words are in run.log beside it.
set -eu
export ROOT_DIR={root}
set -- $(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" <<'END'
{lines}
END
)
log=$ROOT_DIR/results/$1/$2/$3
mkdir -p "$log"
exec {python} {program} --object_type "$1" --objects "$2" --views "$3" \\
    {options} >"$log/slurm.log" 2>&1
"""


def array_script(jobs: list[Job], arguments: argparse.Namespace) -> str:
    """The script. Types and objects are plain names (sap3d.names); paths are quoted.

    Raises:
        UserError: no jobs.
    """
    if not jobs:
        raise UserError("all jobs are done: nothing for --slurm")
    options = ["--slots", "1", "--seed", str(arguments.seed), "--no-summary"]
    # Slurm shows a task its own GPU alone; how much of it is free is Slurm's to know.
    options += ["--cpu"] if arguments.cpu else ["--gpus", "0", "--min-free-gb", "0"]
    options += ["--input_dir", str(arguments.input_dir.resolve())] if arguments.input_dir else []
    options += stage_options(arguments)
    return SCRIPT.format(
        last=len(jobs) - 1,
        at_once=f"%{arguments.slots}" if arguments.slots else "",
        cores=arguments.cores,
        device=f"--mem={JOB_GB * 1024:.0f}M" if arguments.cpu else "--gres=gpu:1",
        root=shlex.quote(str(root_dir())),
        lines="\n".join(f"{job.type} {job.object} {job.views}" for job in jobs),
        python=shlex.quote(sys.executable),
        program=shlex.quote(str(REPOSITORY / "run_pipeline.py")),
        options=shlex.join(options),
    )


def submit(script: str) -> str:
    """Hand a script to sbatch; what it answers.

    Raises:
        UserError: no sbatch here, or it refuses.
    """
    if not shutil.which("sbatch"):
        raise UserError("--slurm submit: no sbatch on PATH; plain --slurm prints the script")
    answer = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)
    if answer.returncode:
        raise UserError(answer.stderr.strip() or f"sbatch ended with exit status {answer.returncode}")
    return answer.stdout

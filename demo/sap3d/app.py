"""The demo: drop photos, look at what is cut out, run, turn the mesh.

    .venv/bin/python demo/sap3d/app.py            # or: .venv/bin/gradio demo/sap3d/app.py
    .venv/bin/python demo/sap3d/app.py --port 8000 --workers 2 --max-photos 8 --max-mb 30

Jobs are kept in ROOT_DIR/demo/jobs and wait for each other; the address of a job's page (?job=…) finds it again, and
that of its results (?result=…) shows these alone.
"""

import argparse
import os
import signal
import sys
import threading

import examples
import gradio as gr
import jobs as jb
from layout import STYLE, THEME, head
from page import Page
from settings import Settings
from worker import Worker, published_options

from sap3d.files import root_dir
from sap3d.photos import network
from sap3d.photos.intake import Limits
from sap3d.runs.jobs import GRACE

# Gradio's own place for what is sent is all users' of a machine, and the first one's property.
os.environ.setdefault("GRADIO_TEMP_DIR", str(root_dir() / "demo/uploads"))


def bypass_proxies(host: str) -> None:
    """Reach this server without a proxy that the environment names: Gradio asks it whether it is up."""
    hosts = ["localhost", "127.0.0.1", "::1", host]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), *hosts])


def parse_arguments() -> argparse.Namespace:
    limits = Settings(root_dir()).limits
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="a public address by way of Gradio's servers")
    parser.add_argument("--device", default="0", help="CUDA index, or cpu")
    parser.add_argument("--workers", type=int, default=1, help="jobs that run at a time")
    parser.add_argument("--max-photos", type=int, default=limits.photos)
    parser.add_argument("--max-mb", type=float, default=limits.megabytes, help="of a photo")
    parser.add_argument("--checkpoint", metavar="PATH", help="Zero-1-to-3's, absolute or below ROOT_DIR")
    parser.add_argument(
        "--pose-checkpoint", metavar="PATH", help="RelPose++'s; with both, published weights are offered"
    )
    parser.add_argument("options", nargs="*", metavar="stage.key=value", help="for all jobs")
    return parser.parse_args()


def launch(page: gr.Blocks, settings: Settings, **more: object) -> tuple:
    """Start the page's server; arguments and result as of Gradio's `launch`."""
    limits = settings.limits
    return page.launch(
        max_file_size=int(limits.photos * limits.bytes),
        allowed_paths=settings.served,
        css=STYLE,
        head=head(),
        theme=THEME,
        footer_links=[],
        **more,
    )


def main() -> None:
    arguments = parse_arguments()
    published = published_options(arguments.checkpoint, arguments.pose_checkpoint)
    settings = Settings(root_dir() / "demo", Limits(arguments.max_photos, arguments.max_mb), published)
    bypass_proxies(arguments.host)
    network.session()  # here its weights are fetched, not while a visitor waits
    settings.jobs.mkdir(parents=True, exist_ok=True)
    jb.remove_old(settings.jobs)
    examples.prepare(settings)
    workers = [Worker(settings.jobs, arguments.device, published, arguments.options) for _ in range(arguments.workers)]
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        launch(
            Page(settings).build(),
            settings,
            server_name=arguments.host,
            server_port=arguments.port,
            share=arguments.share,
        )
    finally:
        for worker in workers:
            worker.ends.set()
        for worker in workers:
            worker.join(2 * GRACE)


# The command `gradio` runs this file once more in a thread that watches it for changes.
if __name__ == "__main__" and threading.current_thread() is threading.main_thread():
    main()

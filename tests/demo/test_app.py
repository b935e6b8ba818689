"""The page in a real browser, with a stand-in for the pipeline (docs/figures/demo.py drives the real one)."""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jobs as jb
import pytest
import trimesh
from PIL import Image

from tests.demo.conftest import PATIENCE
from tests.demo.pages import download, edits, job_of, mesh_shown, open_editor, run, send, state
from tests.demo.photos import write_photos

gr = pytest.importorskip("gradio", reason="Gradio is not installed")


def test_photos_become_a_mesh(visitor, settings, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent"))
    assert page.locator("#cards .card img").count() == 4
    run(page)
    mesh_shown(page)
    page.wait_for_function("document.title.startsWith('Done')")
    mesh = trimesh.load(io.BytesIO(download(page, "mesh.glb")), file_type="glb", force="mesh")
    assert len(mesh.faces) == 12
    assert "21.5" in page.locator("#files").inner_text()
    assert zipfile.ZipFile(io.BytesIO(download(page, "mesh.zip"))).namelist() == ["mesh.obj"]
    assert "as OBJ" in page.locator("#files").inner_text()
    page.get_by_role("tab", name="Mesh").click()
    assert page.locator("#mesh a[download='mesh.glb']").is_visible()
    page.get_by_role("tab", name="Novel views").click()
    page.wait_for_selector(".novel[data-shown='0 3']")
    page.locator(".novel input[name=azimuth]").press("ArrowRight")
    page.wait_for_selector(".novel[data-shown='1 3']")


def test_a_reloaded_page_finds_its_job(visitor, tmp_path, hold):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    page.wait_for_selector("text=Finding where each photo was taken from")
    page.reload()
    page.wait_for_selector(".stages .now")
    assert page.locator("#cards .card img").count() == 2
    hold.touch()
    mesh_shown(page)
    page.reload()
    mesh_shown(page)


def test_cancel_ends_the_run_and_another_can_follow(visitor, settings, tmp_path, hold):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    page.wait_for_selector(".stages .now")
    page.click("#cancel")
    state(page, "cancelled")
    assert job_of(page, settings).known["state"] == "cancelled"
    hold.touch()
    page.click("#run:not([disabled])")
    mesh_shown(page)


def test_two_visitors_do_not_mix(visitor, settings, tmp_path):
    first, second = visitor(), visitor()
    send(first, write_photos(tmp_path / "first", 3))
    send(second, write_photos(tmp_path / "second", 2, back=(60, 150, 80)))
    run(first)
    run(second)
    for page, count in ((first, 3), (second, 2)):
        mesh_shown(page)
        assert page.locator("#cards .card img").count() == count
        with job_of(page, settings).cut(0).open("rb") as photo:
            own = subprocess.run(["cksum"], stdin=photo, capture_output=True).stdout
        assert download(page, "points.ply") == own
    assert first.url != second.url


def test_nothing_of_others_can_be_reached(visitor, address, settings, tmp_path):
    """Neither by a guessed address, nor by the paths of files, nor by the link that shows results."""
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    mesh_shown(page)
    job = job_of(page, settings)
    link = page.locator(".share input").input_value()
    assert job.id not in link and job.id not in (job.results / "viewer.glb").as_posix()
    for path in (job.folder / "photos/000.jpg", job.cut(0), job.log, job.folder / "job.json"):
        assert page.request.get(f"{address}gradio_api/file={path}").status in (403, 404)
    stranger = visitor(f"?{link.partition('?')[2]}")
    mesh_shown(stranger)
    assert not stranger.locator("#run").is_visible() and not stranger.locator("#cards .card").count()
    assert job.id not in stranger.content()
    for query in (f"?job={'0' * 32}", "?job=../../etc/passwd", f"?job={job.token}", "?job=ellips"):
        stranger.goto(address + query)
        stranger.wait_for_selector("#told >> text=There is no such job")
    stranger.goto(f"{address}?result={job.id}")
    stranger.wait_for_selector("#told >> text=There are no such results")


def test_a_call_past_the_page_takes_no_file_of_the_server(visitor, address, settings, tmp_path):
    """The handler of uploads reads and removes what it is told of: that must be uploads alone."""
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    job, api = job_of(page, settings), f"{address}gradio_api"
    calls = page.request.get(f"{address}config").json()["dependencies"]
    (upload,) = [call["id"] for call in calls if call["api_name"] == "upload"]

    def ask(path: str) -> str:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [[file], ""], "fn_index": upload, "session_hash": "stranger"}
        assert page.request.post(f"{api}/queue/join", data=body).ok
        return page.request.get(f"{api}/queue/data?session_hash=stranger", timeout=PATIENCE).text()

    secret = write_photos(tmp_path / "secret", 1)[0]
    for path in (secret, job.folder / "photos/000.jpg"):
        assert '"success":false' in ask(str(path)).replace(" ", "")
        assert path.exists() and len(jb.all_jobs(settings.jobs)) == 1
    # What was sent is taken by the same call.
    file = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": secret.read_bytes()}
    (sent,) = page.request.post(f"{api}/upload", multipart={"files": file}).json()
    assert '"success":true' in ask(sent).replace(" ", "")
    assert len(jb.all_jobs(settings.jobs)) == 2


def test_bad_files_are_named_and_the_others_stay(visitor, settings, tmp_path):
    page = visitor()
    (tmp_path / "page.png").write_text("<html><script>document.title = 'taken'</script>")
    page.set_input_files("#photos input[type=file]", [tmp_path / "page.png"])
    page.wait_for_selector("#told >> text=page.png: not a JPEG, PNG")
    assert page.locator("#run").is_disabled() and not any(settings.jobs.iterdir())
    first, second = write_photos(tmp_path / "sent", 2)
    send(page, [first, tmp_path / "page.png"])
    page.wait_for_selector("#told >> text=page.png: not a JPEG")
    assert page.locator("#cards .card").count() == 1 and page.locator("#run").is_enabled()
    page.set_input_files("#photos input[type=file]", [second])
    page.wait_for_selector("#cards .card >> nth=1")
    assert page.locator("#told .problem").count() == 0  # what was said of an earlier upload
    assert "taken" not in page.title()


def test_photos_are_added_moved_and_left_out(visitor, settings, tmp_path):
    page = visitor()
    first, second, third = write_photos(tmp_path / "sent", 3)
    Image.new("RGB", (200, 200), (70, 90, 160)).save(third)
    send(page, [third])
    page.wait_for_selector("#told >> text=None of the photos can be used yet")
    assert page.locator("#run").is_disabled()
    page.set_input_files("#photos input[type=file]", [first])
    page.wait_for_selector("#cards .card >> nth=1")
    page.wait_for_selector("#told >> text=Look closely at 0.jpg")  # whose outline is told by colours alone here
    page.wait_for_selector("#told >> text=This photo is left out unless you mend its outline: 2.jpg")
    page.wait_for_selector("#cards .bad >> text=It cannot be used: no clear object in it")
    page.set_input_files("#photos input[type=file]", [second])
    page.wait_for_selector("#cards .card >> nth=2")
    names = page.locator("#cards h3")
    assert names.all_inner_texts() == ["1. 0.jpg", "2. 1.jpg", "3. 2.jpg"]
    page.click("#cards [data-act=later][data-index='0']")
    page.wait_for_selector("#cards h3:has-text('1. 1.jpg')")
    page.click("#cards [data-act=leave][data-index='0']")
    page.wait_for_selector("#cards .left-out")
    assert job_of(page, settings).chosen == [1]
    page.click("#cards [data-act=use][data-index='0']")
    page.locator("#cards .left-out").wait_for(state="detached")
    run(page)
    mesh_shown(page)
    assert job_of(page, settings).chosen == [0, 1]
    page.click("#anew")
    state(page, "none")
    assert page.locator("#run").is_disabled() and "job=" not in page.url


def test_a_photo_that_is_added_keeps_what_was_mended(visitor, settings, tmp_path):
    page = visitor()
    first, second = write_photos(tmp_path / "sent", 2)
    send(page, [first])
    open_editor(page)
    page.check("#editor input[value=remove]")
    page.locator("#editor canvas").click(position={"x": 10, "y": 10})
    edits(page, 1)
    page.click("#editor button[name=close]")
    page.set_input_files("#photos input[type=file]", [second])
    page.wait_for_selector("#cards .card >> nth=1")
    assert [len(photo["edits"]) for photo in job_of(page, settings).known["photos"]] == [1, 0]


def test_an_edit_after_a_run_makes_a_new_version_beside_it(visitor, settings, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 3))
    run(page)
    mesh_shown(page)
    done = job_of(page, settings)
    open_editor(page)
    page.locator("#editor canvas").click()
    edits(page, 1)
    page.click("#editor button[name=close]")
    page.wait_for_selector("#history .versions")
    version = job_of(page, settings)
    assert version != done and version.known["state"] == "draft" and done.known["state"] == "done"
    assert (done.results / "mesh.glb").exists() and not done.known["photos"][0]["edits"]
    page.click("#history a:has-text('Version 1')")
    mesh_shown(page)  # the earlier one, with all that it had
    assert job_of(page, settings) == done
    page.click("#history a:has-text('Version 2')")
    state(page, "draft")
    run(page)
    mesh_shown(page)
    # Run on a version that is done makes a third, and so does another photo.
    page.click("#run:not([disabled])")
    page.wait_for_selector("#history a:has-text('Version 3')")
    mesh_shown(page)
    assert [job.known["state"] for job in jb.versions(settings.jobs, done)] == ["done"] * 3


def test_changes_while_a_job_runs_are_refused_visibly(visitor, tmp_path, hold):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    page.wait_for_selector(".stages .now")
    page.click("#cards [data-act=mend][data-index='0']")
    page.wait_for_selector("#told >> text=The photos cannot be changed while this run goes on")
    assert not page.locator("#editor dialog[open]").count()
    page.click("#cancel")
    state(page, "cancelled")


def test_choices_reach_the_run_and_earlier_jobs_are_found(visitor, settings, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    page.get_by_role("button", name="More choices").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_label("5,000").check()
    page.get_by_label("1024 × 1024").check()
    run(page)
    mesh_shown(page)
    said = download(page, "report.html").decode()
    for part in ("seed 7:", "--preset fast", "mesh.faces=5000", "mesh.texture_size=1024"):
        assert part in said
    page.goto(re.sub(r"\?.*", "", page.url))
    page.click("#earlier summary")
    page.click("#earlier a:has-text('2 photos, fast, done')")
    mesh_shown(page)


def test_an_example_opens_at_once_with_all_files_and_can_be_run(visitor, settings):
    page = visitor()
    page.click("#examples [data-name=ellipse]")
    mesh_shown(page)
    assert "Ellipse by A. Nybody (CC0 1.0)" in page.locator("#told").inner_text()
    assert page.locator("#cards .card").count() == 4
    for name in (
        "mesh.glb",
        "mesh.zip",
        "points.ply",
        "cameras.zip",
        "turntable.mp4",
        "novel_views.mp4",
        "report.html",
    ):
        assert download(page, name)
    page.reload()  # the address keeps it
    mesh_shown(page)
    run(page)
    page.get_by_role("tab", name="Mesh").click()
    mesh_shown(page)
    assert job_of(page, settings).known["state"] == "done"  # a visitor's own
    assert len(jb.all_jobs(settings.examples)) == 1 and not jb.Job(settings.examples / "ellipse").known.get("queued")


def test_published_weights_are_offered_where_they_are(settings):
    from dataclasses import replace

    from page import Page

    for found, offered in (((), False), (("--backbone", "published"), True)):
        page = Page(replace(settings, published=found))
        assert (jb.PUBLISHED in [preset for _, preset in page.preset_choices()]) == offered


def test_a_server_that_is_told_to_end_ends_cleanly_and_is_not_shared(tmp_path):
    program = Path(jb.__file__).with_name("app.py")
    # The examples count as made ready, which takes longer than all else.
    ready = shutil.copytree(program.with_name("examples"), tmp_path / "demo/examples")
    for known in ready.glob("*/job.json"):
        shutil.copy(known, known.with_name("made_of"))
    # A proxy that nobody serves: the page must not ask it for itself.
    environment = os.environ | {"ROOT_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "http_proxy": "http://127.0.0.1:9"}
    with subprocess.Popen(
        [sys.executable, program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert any("Running on local URL:  http://127.0.0.1:" in line for line in server.stdout)
            server.terminate()
            rest = server.stdout.read()
            assert "Traceback" not in rest and "Running on public URL" not in rest
            assert server.wait(PATIENCE / 1000) == 0
        finally:
            server.kill()

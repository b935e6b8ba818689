"""What visitors do on the demo's page, for its tests. Each waits for what it is about."""

import re

import jobs as jb


def send(page, paths) -> None:
    """Drop files and wait for what becomes of them."""
    page.set_input_files("#photos input[type=file]", paths)
    page.wait_for_selector("#cards .card img")
    page.wait_for_url(re.compile(r"\?job="))


def run(page) -> None:
    page.click("text=fast, about")
    page.click("#run:not([disabled])")
    page.wait_for_selector("#told [data-state=queued], #told [data-state=running], #told [data-state=done]")


def mesh_shown(page, tab: str = "#mesh") -> None:
    """Wait until a viewer has loaded its mesh."""
    page.wait_for_function("tab => document.querySelector(tab + ' model-viewer')?.loaded", arg=tab)


def state(page, wanted: str) -> None:
    page.wait_for_selector(f"#told [data-state={wanted}]")


def job_of(page, settings) -> jb.Job:
    return jb.find_job(settings.jobs, page.url.rpartition("=")[2])


def download(page, name: str) -> bytes:
    page.get_by_role("tab", name="Files").click()
    with page.expect_download() as expected:
        page.click(f"#files a[download='{name}']")
    return expected.value.path().read_bytes()


def open_editor(page, index: int = 0) -> None:
    page.click(f"#cards [data-act=mend][data-index='{index}']")
    page.wait_for_selector("#editor dialog[open][data-edits]")


def edits(page, count: int) -> None:
    """Wait until the editor shows so many edits."""
    page.wait_for_selector(f"#editor dialog[data-edits='{count}']:not([aria-busy])")

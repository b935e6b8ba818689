"""The page: its parts, and what happens when they are used."""

import html
import json
from dataclasses import replace
from pathlib import Path

import drafts
import examples
import gradio as gr
import jobs as jb
import outcome
import outlines
import pace
import progress
from jobs import Choices, Job
from layout import PRESET, Layout

from sap3d.errors import UserError

NONE = "There is no such job. It may have been removed: jobs are kept for a week."
SHARED = "<p>These are results that somebody has shared with you. You can make your own from photos of yours.</p>"
ADDRESS = "(id) => window.sap3d.show(id)"
EARLIER = "() => [JSON.stringify(window.sap3d ? window.sap3d.jobs() : [])]"


class Page(Layout):
    """The demo's page; handlers answer with what is to change, by component."""

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="SAP3D", delete_cache=(3600, 24 * 3600)) as page:
            self.build_parts()
            self.connect(page)
        return page

    def connect(self, page: gr.Blocks) -> None:
        """Say what happens when; where another job may be shown then, the address follows."""
        progress_parts = [self.told, self.live, self.seen, self.start, self.cancel, self.anew, self.entry, self.timer]
        choices = [self.preset, self.fov, self.drop_outliers, self.seed, self.faces, self.texture]
        outcome_parts = [self.shown, self.doubt, *self.tabs, self.history]
        everything = [self.identifier, self.cards, self.editor, *choices, *progress_parts, *outcome_parts]
        changes = [
            page.load(self.open_page, self.mine, [self.earlier, *everything], js=EARLIER),
            self.drop.upload(self.upload, [self.drop, self.identifier], [self.drop, *everything]),
            self.examples.act(self.open_example, None, everything),
            self.cards.act(self.change_photo, self.identifier, everything),
            self.editor.edit(self.change_outline, self.identifier, everything),
            self.doubt.act(self.mend_poses, self.identifier, everything),
            self.start.click(self.run, [self.identifier, *choices], everything),
            self.anew.click(lambda: self.show(None), None, everything),
        ]
        for change in changes:
            change.then(None, self.identifier, None, js=ADDRESS)
        self.cancel.click(self.stop, self.identifier, progress_parts)
        self.timer.tick(self.tick, [self.identifier, self.seen], everything, show_progress="hidden")

    # ------------------------------------------------------------ what is shown

    def find(self, identifier: str | None) -> Job | None:
        """The job or example of an identifier that came from a browser."""
        return jb.find_job(self.settings.jobs, identifier) or examples.find_example(self.settings, identifier)

    def earlier_jobs(self, identifiers: list) -> str:
        """Links to the jobs that this browser knows of."""
        found = [job for job in (jb.find_job(self.settings.jobs, str(each)) for each in identifiers[:20]) if job]
        rows = "".join(f'<li><a href="?job={job.id}">{html.escape(outcome.summary(job))}</a></li>' for job in found)
        return f"<details><summary>Your earlier jobs ({len(found)})</summary><ul>{rows}</ul></details>" if found else ""

    def show(self, job: Job | None, message: str = "") -> dict:
        """All of a job, or the empty page."""
        known = job.known if job else {}
        chosen, results_there = (job.choices if job else Choices()), known.get("state") == "done"
        tabs = outcome.tabs(job.results if results_there else None)
        return {
            self.identifier: job.id if job else "",
            self.cards: outlines.cards(job),
            self.editor: None,
            self.preset: gr.Radio(self.preset_choices(), value=known.get("preset", PRESET)),
            self.fov: chosen.fov,
            self.drop_outliers: chosen.drop_outliers,
            self.seed: chosen.seed,
            self.faces: chosen.faces,
            self.texture: chosen.texture,
            **self.show_progress(job, message),
            self.shown: gr.Column(visible=results_there),
            self.doubt: outcome.trust(job) if results_there else "",
            **dict(zip(self.tabs, tabs)),
            self.history: outcome.versions(self.settings, job),
        }

    def show_progress(self, job: Job | None, message: str = "", seen: list | None = None) -> dict:
        """State, picture, buttons and timer; the picture stays if it is the one that was `seen`."""
        state = job.known["state"] if job else ""
        busy = state in ("queued", "running")
        drawn = progress.newest_picture(job) if state in ("running", "failed", "cancelled") else None
        now = [str(drawn), drawn.stat().st_mtime] if drawn else None
        picture = gr.HTML(progress.picture(drawn) if drawn and now != seen else "", visible=drawn is not None)
        live = {} if now == seen else {self.live: picture}
        return {
            self.told: progress.told(self.settings, job, message),
            **live,
            self.seen: now,
            self.start: gr.Button("Run again" if state == "done" else "Run", visible=not busy,
                                  interactive=job is not None and bool(job.chosen)),
            self.cancel: gr.Button(visible=busy),
            self.anew: gr.Button(visible=job is not None and not busy),
            self.entry: gr.Column(visible=not busy),
            self.timer: gr.Timer(active=busy),
        }  # fmt: skip

    def refuse(self, job: Job | None, error: UserError) -> dict:
        """What was asked for is refused, where it is seen."""
        gr.Warning(html.escape(str(error)))
        return self.show_progress(job, str(error))

    # ------------------------------------------------------------ what happens

    def open_page(self, mine: str, request: gr.Request) -> dict:
        """A page that is opened or reloaded finds its job, or shared results, by its address."""
        query = request.query_params
        if shared := query.get("result"):
            return {self.earlier: "", **self.show_shared(jb.find_shared(self.settings.jobs, shared))}
        identifier = query.get("job")
        job = self.find(identifier)
        try:
            earlier = self.earlier_jobs(list(json.loads(mine)))
        except (ValueError, TypeError):
            earlier = ""
        return {self.earlier: earlier, **self.show(job, NONE if identifier and job is None else "")}

    def show_shared(self, job: Job | None) -> dict:
        """Results for somebody who has their link: neither photos nor the job."""
        if job is None:
            return self.show(None, "There are no such results. They may have been removed.")
        return {
            **self.show(None),
            self.told: f'<div data-state="shared">{SHARED}</div>',
            self.shown: gr.Column(visible=True),
            **dict(zip(self.tabs, outcome.tabs(job.results))),
            self.entry: gr.Column(visible=False),
            self.start: gr.Button(visible=False),
        }

    def upload(self, sent: list[str], identifier: str) -> dict:
        """Photos that were dropped become a job, together with those of the one that is open."""
        paths, before = [Path(path) for path in sent or ()], self.find(identifier)
        if before and before.known.get("example"):
            before = None
        try:
            if before and before.busy:
                raise UserError(drafts.BUSY)
            job, refused = drafts.create_job(self.settings.jobs, paths, self.settings.limits, before)
        except UserError as error:
            return {self.drop: None, **self.refuse(before, error)}
        finally:
            for path in paths:
                path.unlink(missing_ok=True)
        return {self.drop: None, **self.show(job, "; ".join(refused))}

    def open_example(self, event: gr.EventData) -> dict:
        return self.show(examples.find_example(self.settings, event._data.get("name")))

    def change_photo(self, identifier: str, event: gr.EventData) -> dict:
        """A button beneath a photo: its outline, its use, its place."""
        job, act, index = self.find(identifier), event._data.get("act"), int(event._data.get("index") or 0)
        if job is None:
            return self.show(None, NONE)
        try:
            if act == "mend":
                drafts.refuse_busy(job)
                return {self.editor: outlines.editor(job, index)}
            job = drafts.changeable(job, self.settings.jobs)
            if act in ("leave", "use"):
                drafts.leave_out(job, index, act == "leave")
            else:
                drafts.move(job, index, -1 if act == "earlier" else 1)
        except UserError as error:
            return self.refuse(job, error)
        return self.show(job)

    def change_outline(self, identifier: str, event: gr.EventData) -> dict:
        """An edit in the editor, or one less."""
        job, act, index = self.find(identifier), event._data.get("act"), int(event._data.get("index") or 0)
        if job is None:
            return self.show(None, NONE)
        try:
            job = drafts.changeable(job, self.settings.jobs)
            if act == "edit":
                drafts.edit(job, index, event._data.get("edit"))
            else:
                for _ in range(len(job.known["photos"][index]["edits"]) if act == "reset" else 1):
                    drafts.edit(job, index, None)
        except UserError as error:
            return {**self.refuse(job, error), self.editor: outlines.editor(job, index, str(error))}
        return {**self.show(job), self.editor: outlines.editor(job, index)}

    def mend_poses(self, identifier: str, event: gr.EventData) -> dict:
        """Run another version without a photo, or with another of stage 1's answers."""
        before, act, index = self.find(identifier), event._data.get("act"), int(event._data.get("index") or 0)
        if before is None:
            return self.show(None, NONE)
        job = drafts.fork(before, self.settings.jobs)
        if act == "drop":
            drafts.leave_out(job, index, True)
        choices = replace(before.choices, hypothesis=index) if act == "hypothesis" else before.choices
        return self.submit(job, before.known["preset"], choices)

    def run(self, identifier: str, preset: str, fov: float | None, drop_outliers: bool, seed: float | None,
            faces: int, texture: int) -> dict:  # fmt: skip
        """Queue the job, or another version of it where it is done."""
        job = self.find(identifier)
        if job is None:
            return self.show(None, NONE)
        if job.known["state"] == "done":
            job = drafts.fork(job, self.settings.jobs)
        return self.submit(job, preset, Choices(fov or None, drop_outliers, int(seed or 0), faces, texture))

    def submit(self, job: Job, preset: str, choices: Choices) -> dict:
        try:
            jb.submit(job, preset, choices, pace.expected_seconds(self.settings.jobs, preset))
        except UserError as error:
            return {**self.show(job), **self.refuse(job, error)}
        return self.show(job)

    def stop(self, identifier: str) -> dict:
        job = self.find(identifier)
        if job:
            jb.cancel(job)
        return self.show_progress(job)

    def tick(self, identifier: str, seen: list | None) -> dict:
        """What has changed since the last look; everything once the job is over."""
        job = self.find(identifier)
        if job is None or not job.busy:
            return self.show(job)
        return self.show_progress(job, seen=seen)

"""The parts of the page and where they stand; page.py says what they do."""

import html
from pathlib import Path

import examples
import gradio as gr
import jobs as jb
import pace
import progress
from jobs import Choices
from settings import Settings

from sap3d.scores import viewer

HERE = Path(__file__).resolve().parent
REFRESH = 3.0  # seconds between looks, each of which takes time from the runs
PRESET = "standard"
ACT = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  trigger('act', { act: button.dataset.act, index: Number(button.dataset.index), name: button.dataset.name });
});"""
EDITOR = """<dialog aria-labelledby="editor-name"><h2 class="name" id="editor-name">Outline</h2>
<div class="tools">
<fieldset><legend>What to do</legend>
<label><input type="radio" name="kind" value="keep" checked> Add to the object</label>
<label><input type="radio" name="kind" value="remove"> Remove from it</label></fieldset>
<fieldset><legend>With</legend>
<label><input type="radio" name="tool" value="point" checked> A point</label>
<label><input type="radio" name="tool" value="brush"> A brush</label>
<label><input type="radio" name="tool" value="box"> A box</label>
<label>Size of the brush <input type="range" name="radius" min="0.5" max="8" step="0.5" value="2"></label></fieldset>
</div>
<div class="frame" tabindex="-1"><canvas tabindex="0" role="application" aria-label="The photo with its outline. Arrow
keys move the cross, Enter sets a point, a dab of the brush, or a corner of the box."></canvas></div>
<p class="said" role="status"></p>
<div class="tools">
<button type="button" name="undo">Undo</button>
<button type="button" name="reset">Undo all</button>
<button type="button" name="in" aria-label="Zoom in">Zoom in</button>
<button type="button" name="out" aria-label="Zoom out">Zoom out</button>
<button type="button" name="close">Done</button>
</div>
<p>A point takes along what looks like it nearby. A brush changes what it touches. A box to add says that the whole
object is inside it, and a box to remove clears what is inside.</p></dialog>"""
STYLE = (HERE / "page.css").read_text() + viewer.STYLE
# Accents that stand out from their backgrounds by 4.5 : 1 at least, in light and in dark.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    button_primary_background_fill="#9a3412", button_primary_background_fill_hover="#7c2d12",
    button_primary_background_fill_dark="#9a3412", button_primary_background_fill_hover_dark="#7c2d12",
    button_primary_text_color="#fff", button_primary_text_color_dark="#fff",
    block_info_text_color="#4b5563", block_info_text_color_dark="#c4c9d1",
    body_text_color_subdued="#4b5563", body_text_color_subdued_dark="#c4c9d1",
    block_label_text_color="#374151", block_label_text_color_dark="#e5e7eb",
)  # fmt: skip


def head() -> str:
    """Scripts of the page."""
    gr.set_static_paths([viewer.FOLDER])
    sources = "".join(f'<script defer src="gradio_api/file={path}"></script>' for path in viewer.SCRIPTS)
    return f"{sources}<script>{(HERE / 'page.js').read_text()}</script>"


class Layout:
    """The components of the page."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def build_parts(self) -> None:
        # In the page, not in the server's session: the address is set from it.
        self.identifier = gr.Textbox("", visible="hidden", show_label=False)
        self.mine = gr.Textbox("[]", visible="hidden", show_label=False)
        self.seen, self.timer = gr.State(None), gr.Timer(REFRESH, active=False)
        photos = self.settings.limits.photos
        taken = f"One to {photos} photos of an object, taken from anywhere around it, become a mesh."
        gr.HTML(f"<h1>SAP3D</h1><p>{taken}</p>")
        self.earlier = gr.HTML(elem_id="earlier")
        with gr.Row(elem_id="layout"):
            with gr.Column(scale=2, elem_id="form"):
                self.build_form()
            with gr.Column(scale=3, elem_id="output"):
                self.build_output()
        script = (HERE / "editor.js").read_text()
        self.editor = gr.HTML(None, html_template=EDITOR, js_on_load=script, elem_id="editor")

    def build_form(self) -> None:
        with gr.Column() as self.entry:
            self.drop = gr.File(label="Photos, or zips of photos", file_count="multiple", height=140, elem_id="photos")
            self.examples = gr.HTML(self.example_buttons(), js_on_load=ACT, elem_id="examples")
            self.preset = gr.Radio(self.preset_choices(), value=PRESET, label="Effort", elem_id="preset")
            with gr.Accordion("More choices", open=False, elem_id="more"):
                self.fov = gr.Number(None, label="Angle of view of the lens along a photo's longer side, degrees",
                                     info="If you leave it empty, the photos tell it, or it is estimated.")  # fmt: skip
                self.drop_outliers = gr.Checkbox(False, label="Leave out photos that do not fit the rest")
                self.seed = gr.Number(
                    0, precision=0, label="Seed", info="A whole number. Another seed ends a little differently."
                )
                self.faces = gr.Radio([(f"{count:,}", count) for count in jb.FACES], value=Choices.faces,
                                      label="Triangles of the mesh, at most")  # fmt: skip
                self.texture = gr.Radio([(f"{size} × {size}", size) for size in jb.TEXTURES], value=Choices.texture,
                                        label="Size of the texture, in pixels")  # fmt: skip
        with gr.Row():
            self.start = gr.Button("Run", variant="primary", interactive=False, elem_id="run")
            self.cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
            self.anew = gr.Button("Start with other photos", visible=False, elem_id="anew")

    def build_output(self) -> None:
        self.told = gr.HTML(elem_id="told")
        self.live = gr.HTML(visible=False, elem_id="live")
        with gr.Column(visible=False, elem_id="results") as self.shown:
            self.doubt = gr.HTML(js_on_load=ACT, elem_id="doubt")
            with gr.Tabs():
                self.tabs = []
                for title in ("Mesh", "Turntable", "Cameras", "Novel views", "Files"):
                    with gr.Tab(title):
                        self.tabs.append(gr.HTML(elem_id=title.lower().replace(" ", "_")))
        self.history = gr.HTML(elem_id="history")
        self.cards = gr.HTML(js_on_load=ACT, elem_id="cards")

    def preset_choices(self) -> list[tuple[str, str]]:
        """Presets, and the published weights where they are there, with the minutes that they should take here."""
        offered = [*jb.PRESETS, *([jb.PUBLISHED] if self.settings.published else [])]
        total = {preset: sum(pace.expected_seconds(self.settings.jobs, preset)) for preset in offered}
        titles = {jb.PUBLISHED: "published weights"}
        return [
            (f"{titles.get(preset, preset)}, about {max(round(seconds / 60), 1)} min", preset)
            for preset, seconds in total.items()
        ]

    def example_buttons(self) -> str:
        found = examples.all_examples(self.settings)
        if not found:
            return ""
        buttons = "".join(
            f'<button type="button" data-act="open" data-name="{job.id}">{progress.image(examples.thumbnail(job), "")}'
            f"{html.escape(examples.title(job))}</button>"
            for job in found
        )
        return f'<h2>Or open an example, whose results are there at once</h2><div class="choices">{buttons}</div>'

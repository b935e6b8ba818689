"""A mesh to turn in a browser: Google's <model-viewer>, which is one file and needs no network (model_viewer/)."""

import base64
import html
import json
import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "model_viewer"
SCRIPTS = (FOLDER / "model-viewer-umd.min.js", FOLDER / "looks.js")
UNLIT = "KHR_materials_unlit"
GLTF_MAGIC, JSON_CHUNK = 0x46546C67, 0x4E4F534A
# Azimuth and height that the viewer starts at: where the first photo was taken from, a little above.
START = "90deg 70deg auto"
LOOKS = {"colour": "Colour", "wireframe": "Wireframe", "normals": "Normals"}
STYLE = """
.mesh-viewer model-viewer { display: block; width: 100%; height: min(60vh, 30rem, 100vw); border-radius: 6px;
  border: 1px solid var(--line, #8884); background: transparent; --poster-color: transparent; }
.mesh-viewer .looks { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .5rem 0; }
.mesh-viewer .looks p { margin: 0 0 0 auto; }
.mesh-viewer button { padding: .3rem .8rem; min-height: 2.2rem; border: 1px solid currentColor; border-radius: 6px;
  background: transparent; color: inherit; font: inherit; cursor: pointer; }
.mesh-viewer button[aria-pressed=true] { font-weight: 600; box-shadow: inset 0 0 0 1px currentColor; }
"""


def unlit(glb: bytes) -> bytes:
    """A GLB whose materials say that their colours are to be shown as they are (KHR_materials_unlit).

    Textures come from photos: their light is in them already.
    """
    length = struct.unpack_from("<I", glb, 12)[0]
    content, rest = json.loads(glb[20 : 20 + length]), glb[20 + length :]
    for material in content.setdefault("materials", [{}]):
        material.setdefault("extensions", {})[UNLIT] = {}
    for mesh in content.get("meshes", []):
        for primitive in mesh["primitives"]:
            primitive.setdefault("material", 0)
    content["extensionsUsed"] = sorted({*content.get("extensionsUsed", ()), UNLIT})
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<IIIII", GLTF_MAGIC, 2, 20 + len(text) + len(rest), len(text), JSON_CHUNK)
    return header + text + rest


def data_url(glb: bytes) -> str:
    return f"data:model/gltf-binary;base64,{base64.b64encode(glb).decode()}"


def scripts() -> str:
    """What a page that is one file has in its head for `viewer`."""
    return "".join(f"<script>{path.read_text()}</script>" for path in SCRIPTS)


def viewer(source: str, what: str) -> str:
    """HTML of a viewer with its buttons.

    Args:
        source: URL of a GLB that is `unlit`.
        what: it shows, for those who cannot see it.
    """
    pressed = {look: "true" if look == "colour" else "false" for look in LOOKS}
    buttons = "".join(
        f'<button type="button" data-look="{look}" aria-pressed="{pressed[look]}">{title}</button>'
        for look, title in LOOKS.items()
    )
    return (
        f'<div class="mesh-viewer"><model-viewer src="{html.escape(source)}" alt="{html.escape(what)}" camera-controls'
        f' loading="eager" interaction-prompt="none" shadow-intensity="0" camera-orbit="{START}"'
        f' min-camera-orbit="auto 0deg auto" max-camera-orbit="auto 180deg auto"></model-viewer>'
        f'<div class="looks" role="group" aria-label="How the mesh is shown">{buttons}'
        "<p>Drag to turn the mesh. Scroll or pinch to come nearer.</p></div></div>"
    )

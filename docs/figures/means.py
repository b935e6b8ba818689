"""What the embedded model makes of MODELS_demo from five photos, from the sheet that camerabooth/evaluate.py writes.

python camerabooth/evaluate.py --list dataset/benchmarks/models12.txt
python docs/figures/means.py                    # results/camerabooth/samples.png → docs/figures/means.png
"""

from pathlib import Path

from PIL import Image

from sap3d.files import root_dir

ROWS, COLUMNS = 4, 8  # of an object, in the sheet
SHOWN, ACROSS = 4, 3  # columns of an object, and objects side by side, in the figure


def main() -> None:
    sheet = Image.open(root_dir() / "results/camerabooth/samples.png")
    cell = sheet.width // COLUMNS
    width, height = SHOWN * cell, ROWS * cell
    blocks = [sheet.crop((0, top, width, top + height)) for top in range(0, sheet.height - height + cell, height)]
    picture = Image.new("RGB", (ACROSS * width, -(-len(blocks) // ACROSS) * height), "white")
    for index, block in enumerate(blocks):
        picture.paste(block, (index % ACROSS * width, index // ACROSS * height))
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    half.quantize(256).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()

#!/bin/sh
# Ten minutes of training on a borrowed card that has torch, 16 cores and no network: benchmarks/card.py.
# What is lent there takes the working tree and .card, 64 MiB in all, in each of several calls. So there are two loads.
#
#   sh benchmarks/card.sh pack            here: .card/first (wheels) and .card/second (modelled objects)
#   sh benchmarks/card.sh thin first      here: the tree keeps code and weights; `git checkout .` brings the rest back
#   sh benchmarks/card.sh install         there, with .card/first: wheels and weights to /tmp/card
#   sh benchmarks/card.sh thin second     here: the tree keeps code alone
#   sh benchmarks/card.sh train OUT …     there, with .card/second: curve, pictures, and weights in parts below OUT
#   sh benchmarks/card.sh unpack FOLDER   here: the parts → runs/card/prior and runs/card/poses
set -eu
cd "$(dirname "$0")/.."
KEPT=/tmp/card WEIGHTS='camerabooth/weights relposepp/weights sap3d/efficientnet_lite0.safetensors'
PART_MB=14

pack() {
    rm -rf .card && mkdir -p .card/first .card/second
    for wheel in trimesh==5.2.0 omegaconf==2.4.0 diffusers==0.42.1 fast-simplification==0.2.0 importlib_metadata; do
        python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
            -d .card/first "$wheel"
    done
    .venv/bin/python - .card/objects <<'PY'
import json, sys
from dataclasses import asdict
from pathlib import Path
import numpy as np
from dataset.modelled import list_models
from dataset.training_views import HELD_OUT
root, out, chosen = Path.cwd(), Path(sys.argv[1]), []
for place, model in enumerate(list_models()):
    # What is held out here is not seen there. The largest would take the room of many.
    if place % HELD_OUT == 0 or model.compact.stat().st_size > 250_000:
        continue
    content = dict(np.load(model.compact))
    for name, steps in (("vertices", 4096), ("uv", 2048)):  # rounded and not packed one by one, they pack well together
        content[name] = (np.round(content[name] * steps) / steps).astype(np.float32)
    path = out / model.compact.relative_to(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **content)
    chosen.append(asdict(model))
(out / "dataset/cache/models/index.json").write_text(json.dumps({"models": chosen, "skipped": {}}))
print(len(chosen), "modelled objects")
PY
    # Alike things lie side by side in the order of names.
    (cd .card/objects && find . -type f | LC_ALL=C sort | tar cf - -T -) |
        xz --lzma2=preset=6,dict=256MiB >.card/second/models.tar.xz
    rm -r .card/objects
    du -sh .card/*
}

thin() {
    git ls-files | grep -vE '^(benchmarks/card|camerabooth/|dataset/|relposepp/|sap3d/)' | tr '\n' '\0' | xargs -0 rm -f
    rm -rf sap3d/scores/model_viewer
    if [ "$1" = second ]; then rm -rf $WEIGHTS; fi
}

install() {
    python3 -m pip install --quiet --no-deps --no-index --no-compile --target $KEPT/site .card/first/*.whl
    # The card draws the views, so Embree is imported but never used; its wheel would take 15 MB.
    mkdir -p $KEPT/site/embreex
    touch $KEPT/site/embreex/__init__.py
    echo 'TriangleMesh = None' >$KEPT/site/embreex/mesh_construction.py
    echo 'EmbreeScene = None' >$KEPT/site/embreex/rtcore_scene.py
    tar cf $KEPT/weights.tar $WEIGHTS
}

train() {
    out=$1 && shift
    tar xf $KEPT/weights.tar
    tar xJf .card/second/models.tar.xz
    export PYTHONPATH="$PWD:$KEPT/site" OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
    python3 benchmarks/card.py /tmp/trained "$@" 2>&1 | tee "$out/train.log"
    cp /tmp/trained/curve.csv /tmp/trained/views.png "$out"
    cp /tmp/trained/poses/model.safetensors "$out/poses.safetensors"
    split -b "${PART_MB}m" /tmp/trained/prior/model.safetensors "$out/model.part_"
}

unpack() {
    mkdir -p runs/card/prior runs/card/poses
    cp camerabooth/weights/embedded/*.json runs/card/prior
    cat "$1"/model.part_* >runs/card/prior/model.safetensors
    cp relposepp/weights/config.json runs/card/poses
    cp "$1/poses.safetensors" runs/card/poses/model.safetensors
}

"$@"

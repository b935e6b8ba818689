#!/bin/sh
# Ten minutes of the prior's training on a borrowed card that has torch, 16 cores and no network.
#
#   sh benchmarks/card.sh pack             here: .card/ with wheels and modelled objects; it and the tree stay below 64 MiB
#   sh benchmarks/card.sh train $OUT       there: renders on the cores while the card trains; weights in parts below $OUT
#   sh benchmarks/card.sh unpack FOLDER    here: the parts → runs/camerabooth/card/, for pretrain.py start=runs/camerabooth/card
set -eu
cd "$(dirname "$0")/.."
SECONDS_OF_TRAINING=${SECONDS_OF_TRAINING:-480} RENDERERS=${RENDERERS:-11} DEVICE=${DEVICE:-0}
MODELS_MB=14 PART_MB=14

pack() {
    rm -rf .card && mkdir -p .card/wheels
    for wheel in trimesh==5.2.0 embreex==4.4.0.post1 omegaconf==2.4.0 diffusers==0.42.1 pyyaml; do
        python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
            -d .card/wheels "$wheel"
    done
    .venv/bin/python - "$MODELS_MB" <<'PY'
import json, random, sys, tarfile
from pathlib import Path
from dataset.modelled import list_models
from dataset.training_views import HELD_OUT
root, left = Path.cwd(), int(sys.argv[1]) << 20
index = root / "dataset/cache/models/index.json"
entries = json.loads(index.read_text())
pairs = list(enumerate(zip(list_models(), entries["models"], strict=True)))
random.Random(0).shuffle(pairs)
chosen = []
with tarfile.open(".card/models.tar", "w") as tar:
    for place, (model, entry) in pairs:
        left -= model.compact.stat().st_size
        if left > 0 and place % HELD_OUT:  # what is held out here is not seen there
            tar.add(model.compact, model.compact.relative_to(root))
            chosen.append(entry)
    Path(".card/index.json").write_text(json.dumps(entries | {"models": chosen}))
    tar.add(".card/index.json", index.relative_to(root))
print(len(chosen), "modelled objects")
PY
    du -sh .card
}

train() {
    out=$1
    python3 -m pip install --quiet --no-deps --no-index --target .card/site .card/wheels/*.whl
    export PYTHONPATH="$PWD:$PWD/.card/site" OMP_NUM_THREADS=1
    tar xf .card/models.tar
    for worker in $(seq 1 "$RENDERERS"); do
        kind=$([ $((worker % 2)) = 0 ] && echo models || echo toys)
        nice -n 5 python3 dataset/training_views.py "$kind" --first $((worker / 2 * 100)) --shards 100 \
            >"$out/render_$worker.log" 2>&1 &
    done
    until [ -f runs/views/toys/00000_pictures.npy ] && [ -f runs/views/toys/00100_pictures.npy ] &&
        [ -f runs/views/models/00100_pictures.npy ]; do sleep 2; done
    minutes=$(awk "BEGIN { print $SECONDS_OF_TRAINING / 60 }")
    python3 camerabooth/pretrain.py device="$DEVICE" workers=4 objects=32 max_minutes="$minutes" \
        learning_rate=1e-3 warmup_steps=300 decay=0.4 validate_steps=500 checkpoint_minutes=2 2>&1 |
        tail -n 40 | tee "$out/train.log"
    python3 camerabooth/pretrain.py device=cpu export=runs/camerabooth/exported
    cp runs/camerabooth/exported/config.json "$out"
    cp runs/camerabooth/curve.csv "$out" || true # there is none before the first validation
    split -b "${PART_MB}m" runs/camerabooth/exported/model.safetensors "$out/model.part_"
    kill $(jobs -p) 2>/dev/null || true
}

unpack() {
    mkdir -p runs/camerabooth/card
    cat "$1"/model.part_* >runs/camerabooth/card/model.safetensors
    cp "$1/config.json" runs/camerabooth/card/
}

"$@"

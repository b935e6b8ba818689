#!/bin/sh
# Takes run_pipeline.sh's place in the tests of the demo: its headers, a moment of work, and the files that are shown.
# What the first photo's bytes say goes into the results, so that mixed jobs are noticed.
set -eu
type=$1 object=$2 views=$3
all="$*"
shift 4
while [ $# -gt 0 ]; do
    case $1 in
        *=*) shift && continue ;;
        --drop-outliers) shift && continue ;;
        --input) input=$2 ;;
        --preset | --backbone) preset=$2 ;;
    esac
    shift 2
done
step=0
for stage in data poses tuning novel_views reconstruction; do
    step=$((step + 1))
    echo "[$step/6] $stage"
    sleep "${STAND_IN_SECONDS:-0.1}"
    # Held in a stage until a file is there, whatever the load: STAND_IN_HOLD names it.
    [ "$stage" != poses ] || [ ! "${STAND_IN_HOLD:-}" ] || until [ -e "$STAND_IN_HOLD" ]; do sleep 0.1; done
    [ ! -e "$input/../fail" ] || { echo "error: $stage fails as it was told"; exit 2; }
    echo "      $step s"
done
field=$ROOT_DIR/3D_Recon/threestudio/experiments_${type}_view_${views}_nerf/$object
novel=$ROOT_DIR/camerabooth/experiments_nvs/$type/${object}_view_$views
initial=$ROOT_DIR/relposepp/experiments/$type/${object}_view_$views
results=$ROOT_DIR/results/$type/$object/$views
mkdir -p "$field/interchange" "$novel" "$results" "$initial"
cp "$STAND_IN_FILES/mesh.glb" "$STAND_IN_FILES/turntable.mp4" "$field"
cp "$STAND_IN_FILES/poses_$views.json" "$field/poses.json"
cp "$STAND_IN_FILES/poses_$views.json" "$initial/poses.json"
cp "$STAND_IN_FILES/sheet.png" "$novel"
cp "$STAND_IN_FILES/turntable.mp4" "$novel/video.mp4"
sed "s/\"views\": 0/\"views\": $views/" "$STAND_IN_FILES/results.json" >"$results/results.json"
cksum <"$(ls "$input"/*.png | head -n 1)" >"$field/interchange/points.ply"
echo "seed $SEED: $all" >"$results/report.html"
for name in mesh.obj mesh.stl splat.ply; do cp "$field/mesh.glb" "$field/$name"; done
echo "[6/6] evaluation"

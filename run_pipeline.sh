#!/bin/sh
# One object from photos to a mesh: sh run_pipeline.sh GSO_demo chefmate_8_frypan 5 0
# Your own photos:                  sh run_pipeline.sh DEMO my_mug 4 0 --input photos/
# Quicker, or with more effort:     sh run_pipeline.sh DEMO my_mug 4 0 --input photos/ --preset fast    (or best)
#
# Environment: ROOT_DIR, where data and outputs live (default: this folder); SEED (default 0).
set -eu

usage() {
    echo "${1:+error: $1; }usage: sh run_pipeline.sh TYPE OBJECT VIEWS GPU_INDEX|cpu [--input FOLDER]" \
        "[--preset fast|standard|best]" >&2
    exit 2
}

[ $# -ge 4 ] || usage ""
type=$1 object=$2 views=$3 gpu=$4 input= preset=standard seed=${SEED:-0}
shift 4
while [ $# -ge 2 ]; do
    case $1 in
        --input) input=$2 ;;
        --preset) preset=$2 ;;
        *) usage "no option '$1'" ;;
    esac
    shift 2
done
[ $# -eq 0 ] || usage "'$1' lacks its value"
for name in "$type" "$object"; do
    case $name in
        '' | [.-]* | *[!A-Za-z0-9_.-]*) usage "'$name' is not a name of letters, digits, _, - and ." ;;
    esac
done
case $views in
    '' | 0* | *[!0-9]*) usage "VIEWS must be a whole number of at least 1, not '$views'" ;;
esac
case $gpu in
    cpu) ;;
    '' | *[!0-9]*) usage "GPU_INDEX must be a number or cpu, not '$gpu'" ;;
esac
case $seed in
    '' | *[!0-9]*) usage "SEED must be a whole number, not '$seed'" ;;
esac
poses_effort= tuning_effort= field_config=
case $preset in
    fast)
        poses_effort="candidates=120 effort.rounds=1"
        tuning_effort=tuning.steps=40
        field_config="--config 3D_Recon/threestudio/configs/fast.yaml"
        ;;
    standard) ;;
    best)
        poses_effort="candidates=480 effort.rounds=8 effort.finalists=12"
        tuning_effort=tuning.steps=240
        field_config="--config 3D_Recon/threestudio/configs/best.yaml"
        ;;
    *) usage "no preset '$preset'" ;;
esac

repo=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
case $input in
    '' | /*) ;;
    *) input=$PWD/$input ;;
esac
ROOT_DIR=${ROOT_DIR:-$repo}
case $ROOT_DIR in
    /*) ;;
    *) ROOT_DIR=$PWD/$ROOT_DIR ;;
esac
export ROOT_DIR PYTHONUNBUFFERED=1

. "$repo/sap3d/environment.sh"
cd "$repo"

step=0
seconds=
stage() { # stage NAME COMMAND...: run it under a header and note its seconds
    name=$1
    shift
    step=$((step + 1))
    echo "[$step/6] $name"
    start=$(date +%s)
    "$@" || exit $?
    elapsed=$(($(date +%s) - start))
    echo "      $elapsed s"
    seconds="$seconds${seconds:+, }\"$name\": $elapsed"
}

scene="--type $type --object $object --views $views" # plain names: safe to split
common="$scene --device $gpu --seed $seed"
if [ "$input" ]; then
    stage data "$python" -m sap3d.import_photos $scene --input "$input"
else
    stage data "$python" dataset/prepare.py $scene
fi
stage poses "$python" relposepp/infer.py $common $poses_effort
stage tuning "$python" camerabooth/main.py $common $tuning_effort
stage novel_views "$python" camerabooth/go_nvs.py $common
stage reconstruction "$python" 3D_Recon/threestudio/launch.py \
    --config 3D_Recon/threestudio/configs/sap3d.yaml $field_config --train \
    data.type="$type" data.object="$object" data.views="$views" device="$gpu" seed="$seed"

results=$ROOT_DIR/results/$type/$object/$views
mkdir -p "$results"
echo "{$seconds}" >"$results/.seconds.json" && mv "$results/.seconds.json" "$results/seconds.json"
echo "[6/6] evaluation" # its summary comes with its own seconds
"$python" -m sap3d.evaluate $scene --seed "$seed"
exec "$python" -m sap3d.report $scene

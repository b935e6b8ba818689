#!/bin/sh
# One object from photos to a mesh: sh run_pipeline.sh GSO_demo chefmate_8_frypan 5 0
# Your own photos:                  sh run_pipeline.sh DEMO my_mug 4 0 --input photos/    (or a zip, or photos)
# Quicker, or with more effort:     sh run_pipeline.sh DEMO my_mug 4 0 --input photos/ --preset fast    (or best)
# Photos by a lens of 60°:          sh run_pipeline.sh DEMO my_mug 4 0 --input photos/ --fov 60    (along the longer side)
# A mesh in its real size:         sh run_pipeline.sh DEMO my_mug 4 0 --input photos/ --size-mm 95    (of its longest side)
# With the published weights:       sh run_pipeline.sh GSO_demo chefmate_8_frypan 5 0 --backbone published
# Any option of a stage:            sh run_pipeline.sh GSO_demo chefmate_8_frypan 5 0 tuning.steps=240
#
# What is up to date is not run again (sap3d/runs/stages.py): --force runs all, --from STAGE that stage (poses, tuning,
# novel_views, reconstruction) and those after it, and leaves results before it that were made by hand; --dry-run says
# what would run and why.
#
# Environment: ROOT_DIR, where data and outputs live (default: this folder); SEED (default 0).
set -eu

usage() {
    echo "${1:+error: $1; }usage: sh run_pipeline.sh TYPE OBJECT VIEWS GPU_INDEX|cpu [--input FOLDER|ZIP|PHOTO...]" \
        "[--preset fast|standard|best|gpu] [--backbone NAME] [--checkpoint PATH] [--pose-checkpoint PATH]" \
        "[--fov DEGREES] [--size-mm LENGTH] [--drop-outliers] [--force] [--from STAGE] [--dry-run] [stage.key=value ...]" >&2
    exit 2
}

is_key() { # is_key WORD: whether it is stage.key=value
    case $1 in
        *=*) ;;
        *) return 1 ;;
    esac
    case ${1%%=*} in
        *[!a-z0-9_.]* | .* | *.) return 1 ;;
        *.*) ;;
        *) return 1 ;;
    esac
}

keep() { # keep WORD: add it to $options, quoted
    quoted='' rest=$1
    while :; do
        case $rest in
            *\'*) quoted=$quoted${rest%%\'*}"'\\''" rest=${rest#*\'} ;;
            *) break ;;
        esac
    done
    options="$options '$quoted$rest'"
}

[ $# -ge 4 ] || usage ""
type=$1 object=$2 views=$3 gpu=$4 seed=${SEED:-0}
shift 4
# What --input names goes to the end of the arguments, as absolute paths; at last they are all that is left. What is for
# the stages is kept in $options.
from= force= dry_run= option= options= left=$#
while [ $left -gt 0 ]; do
    case $option,$1 in
        ,--force) force=--force ;;
        ,--dry-run) dry_run=--dry-run ;;
        ,--drop-outliers) keep poses.drop_outliers=true ;;
        ,--input | ,--preset | ,--backbone | ,--checkpoint | ,--pose-checkpoint | ,--fov | ,--size-mm | ,--from | more,--input) option=$1 ;;
        more,--*)
            option=
            continue
            ;;
        --*,--*) usage "$option lacks its value" ;;
        --from,*) from=$1 option= ;;
        --preset,fast | --preset,standard | --preset,best | --preset,gpu | --backbone,* | --*checkpoint,* | --fov,* | \
            --size-mm,*)
            keep "$option"
            keep "$1"
            option=
            ;;
        --preset,*) usage "no preset '$1'" ;;
        ,* | more,*)
            if is_key "$1"; then
                keep "$1"
            elif [ "$option" ]; then
                option=--input
                continue
            else
                usage "no option '$1'"
            fi
            ;;
        --input,*)
            case $1 in
                /*) set -- "$@" "$1" ;;
                *) set -- "$@" "$PWD/$1" ;;
            esac
            option=more
            ;;
    esac
    shift
    left=$((left - 1))
done
case $option in
    --*) usage "$option lacks its value" ;;
esac
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
case $from in
    '' | data | poses | tuning | novel_views | reconstruction) ;;
    stage1) from=poses ;;
    stage2) from=tuning ;;
    stage3) from=reconstruction ;;
    *) usage "no stage '$from'" ;;
esac

repo=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
ROOT_DIR=${ROOT_DIR:-$repo}
case $ROOT_DIR in
    /*) ;;
    *) ROOT_DIR=$PWD/$ROOT_DIR ;;
esac
# GPUs are numbered as nvidia-smi does; CUDA by itself takes the fastest first.
export ROOT_DIR PYTHONUNBUFFERED=1 CUDA_DEVICE_ORDER=PCI_BUS_ID

. "$repo/sap3d/runs/environment.sh"
cd "$repo"

scene="--type $type --object $object --views $views" # plain names: safe to split
if [ ! "$dry_run" ]; then
    # One run a scene and number of views: the lock lasts as long as this shell and what it has started.
    results=$ROOT_DIR/results/$type/$object/$views
    { mkdir -p "$results" && : >>"$results/.run"; } 2>/dev/null || fail "cannot write $results"
    exec 9>>"$results/.run"
    "$python" -m sap3d.runs.stages lock $scene
fi

step=0 after=
stage() { # stage NAME COMMAND...: run it under a header unless it is up to date, and say its seconds
    name=$1
    shift
    step=$((step + 1))
    echo "[$step/6] $name"
    [ "$name" != "$from" ] || force=--force from=
    leave=${from:+--leave}
    start=$(date +%s) status=0
    "$python" -m sap3d.runs.stages run "$name" $scene $force $leave $dry_run $after -- "$@" || status=$?
    if [ "$dry_run" ] && [ $status -eq 3 ]; then
        after="--after $name"
    elif [ $status -ne 0 ]; then
        exit $status
    fi
    [ "$dry_run" ] || echo "      $(($(date +%s) - start)) s"
}

common="$scene --device $gpu --seed $seed"
if [ $# -gt 0 ]; then
    stage data "$python" -m sap3d.photos.import_photos $scene --input "$@"
else
    stage data "$python" dataset/prepare.py $scene
fi
eval "set -- $options"
stage poses "$python" relposepp/infer.py $common "$@"
stage tuning "$python" camerabooth/main.py $common "$@"
stage novel_views "$python" camerabooth/go_nvs.py $common "$@"
stage reconstruction "$python" 3D_Recon/threestudio/launch.py --train \
    data.type="$type" data.object="$object" data.views="$views" device="$gpu" seed="$seed" "$@"

[ ! "$dry_run" ] || exit 0
echo "[6/6] evaluation" # its summary comes with its own seconds
exec "$python" -m sap3d.scores $common -- "$@"

#!/usr/bin/env bash
# From nothing to engines/demo: a world, glimpses of many more, a first stage, a tower, a denoiser, a bundle, its figures.
# Run it again after it was stopped: every step goes on where it was.
#   train/demo/recipes/demo.sh [FOLDER] [SEED] [KEY=VALUE ...]
# The settings are the denoiser's, over demo.toml's: length.steps=1250 length.batch=32 length.micro_batch=32, say, on a GPU; its
# time-aligned path, which is trained first, has them too, but for the number of steps. What is trained to its end is kept, whatever
# the settings. How large all else is, variables say: the bundle goes to $BUNDLE; the world has $CLIPS clips, $GLIMPSES glimpses are
# made (0 for none), $TEST_CLIPS clips judge the result; the settings $VAE, $VOCODER, $TOWER and $PRIOR are those of a stage.
set -euo pipefail
work=${1:-runs/demo} seed=${2:-0} out=${BUNDLE:-engines/demo} glimpses=${GLIMPSES:-40000}
world=$work/world first=$work/first films=$work/films clips=$work/clips tower=$work/tower.safetensors

# What is done, and how long it took.
stage() {
    local TIMEFORMAT="$1: %0R s, %0U s of processor time"
    echo "python -m $*" >&2
    time python -m "$@"
}

stage train.demo.synthetic "$world" --clips "${CLIPS:-3600}" --seed $((seed + 1))

[ "$glimpses" = 0 ] || [ -e "$work/glimpses.safetensors" ] || \
    stage train.demo.synthetic "$work/glimpses.safetensors" --glimpses "$glimpses" --seed $((seed + 2))

stage train.first_stage vae --config demo data.train="$world/train.jsonl" data.valid="$world/valid.jsonl" out="$first" \
    length.steps=2400 length.batch=8 data.frames=64 seed="$seed" machine.mixed_precision=bf16 ${VAE:-} --resume
stage train.first_stage vocoder --config demo data.train="$world/train.jsonl" data.valid="$world/valid.jsonl" out="$first" \
    vae="$first" length.steps=2400 length.batch=8 data.frames=52 seed="$seed" ${VOCODER:-} --resume

stage train.prepare "$world/train.jsonl" "$world/valid.jsonl" --out "$films" --config demo --frames-only --seconds 5.12
stage train.demo.pretrain --config demo data.train="$films/train.jsonl" data.valid="$films/valid.jsonl" out="$tower" \
    data.events="$world/events.jsonl" $([ "$glimpses" = 0 ] || echo data.glimpses="$work/glimpses.safetensors") \
    length.steps=13000 length.batch=8 seed="$seed" machine.mixed_precision=bf16 ${TOWER:-}

stage train.prepare "$world/train.jsonl" "$world/valid.jsonl" --out "$clips" --config demo --encoder "$tower" \
    --first-stage "$first" --reuse "$films" --events "$world/events.jsonl" --seconds 5.12
# First what follows from the tokens alone, at a tenth of a step's cost, then the denoiser.
trained() {
    local run=$work/$1
    shift
    if [ -e "$run.done" ]; then
        echo "$run: trained already"
    elif [ -d "$run/last" ]; then
        stage train.run --resume "$run" "$@"
    else
        rm -rf "$run"
        stage train.run --config demo out="$run" seed="$seed" data.train="$clips/train.jsonl" \
            data.valid="$clips/valid.jsonl" start.tower="$tower" start.first_stage="$first" \
            model.licence=Apache-2.0 model.trained_on="the generated world of train.demo.synthetic" "$@"
    fi
    touch "$run.done"
}

trained prior "${@:3}" optimizer.train_unet=false length.steps=3000 ${PRIOR:-}
trained run "${@:3}" start.checkpoint="$work/prior/best"

stage export.build --ckpt "$work/run/best" --first-stage "$first" --out "$out" --precision fp16 --seconds 5.12
stage train.demo.evaluate --bundle "$out" --data "$world" --split test --clips "${TEST_CLIPS:-200}" --first-stage "$first" --controls \
    --steps 25 --solver dpmpp_2m --out "$work/report"

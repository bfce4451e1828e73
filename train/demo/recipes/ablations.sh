#!/usr/bin/env bash
# What positions and the time-aligned path are for: the demo's denoiser with both, without the one, without the other, trained
# alike and briefly, and scored side by side. After demo.sh, in the same folder; what is there already is kept.
#   train/demo/recipes/ablations.sh [FOLDER] [STEPS] [KEY=VALUE ...]
set -euo pipefail
work=${1:-runs/demo} steps=${2:-200} settings=("${@:3}")
first=$work/first clips=$work/clips out=$work/ablations

trained() {
    local run=$out/$1
    shift
    if [ ! -d "$run/bundle" ]; then
        rm -rf "$run"
        python -m train.run --config demo out="$run" data.train="$clips/train.jsonl" data.valid="$clips/valid.jsonl" \
            start.tower="$work/tower.safetensors" start.first_stage="$first" length.steps="$steps" \
            ${settings[@]+"${settings[@]}"} "$@"
        python -m export.build --ckpt "$run/last" --first-stage "$first" --out "$run/bundle" --precision fp16 --seconds 5.12
    fi
}

trained as_it_is
trained without_positions model.encoder.positions=false
trained not_aligned model.unet.aligned_channels=0 loss.prior=0

python -m train.demo.evaluate --bundle "$out/as_it_is/bundle" --compare "positions off=$out/without_positions/bundle" \
    --compare "time-aligned path off=$out/not_aligned/bundle" --data "$work/world" --split test --clips 60 \
    --steps 25 --solver dpmpp_2m --out "$out/report"

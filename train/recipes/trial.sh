#!/usr/bin/env bash
# The whole of training in about twelve minutes on two cores (15 of processor time), from nothing to a bundle, its figures beside
# controls, and one clip's sound: every stage of train/demo/recipes/demo.sh, cut short. The model knows when something happens
# better than chance does, and little more; demo.sh with its own lengths takes five hours. Run again, it goes on where it was.
#   train/recipes/trial.sh [FOLDER] [SEED]
set -euo pipefail
work=${1:-runs/trial} seed=${2:-0} begin=$SECONDS world=${1:-runs/trial}/world
export BUNDLE=$work/bundle CLIPS=${CLIPS:-320} GLIMPSES=0 TEST_CLIPS=32
export VAE="length.steps=450" VOCODER="length.steps=250" TOWER="length.steps=240" PRIOR="length.steps=400"

"$(dirname "$0")/../demo/recipes/demo.sh" "$work" "$seed" length.steps=60

video=$world/$(head -1 "$world/test.jsonl" | cut -d\" -f4)
vta generate "$video" --bundle "$BUNDLE" -o "$work/trial.mp4" --overwrite
echo "$work/trial.mp4: made in $((SECONDS - begin)) s, from nothing"

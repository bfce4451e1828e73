#!/usr/bin/env bash
# The whole of training in ten minutes on two cores, from nothing to a bundle, its figures beside controls, and one clip's sound:
# every stage of train/demo/recipes/demo.sh, each for a minute or so. The model knows when something happens better than chance does,
# and little more; demo.sh with its own lengths takes five hours.
#   train/recipes/trial.sh [FOLDER] [SEED]
set -euo pipefail
work=${1:-runs/trial} seed=${2:-0} begin=$SECONDS
export BUNDLE=$work/bundle CLIPS=${CLIPS:-320} GLIMPSES=0 TEST_CLIPS=32
export VAE="length.minutes=1.5" VOCODER="length.minutes=0.75"
export TOWER="length.minutes=2.5" PRIOR="length.minutes=0.75"

"$(dirname "$0")/../demo/recipes/demo.sh" "$work" "$seed" length.minutes=1.25

video=$(ls "$work"/world/videos/*.mp4 | tail -1)
vta generate "$video" --bundle "$BUNDLE" -o "$work/trial.mp4" --overwrite
echo "$work/trial.mp4: made in $((SECONDS - begin)) s, from nothing"

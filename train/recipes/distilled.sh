#!/usr/bin/env bash
# A student of the small model that needs few steps and no guidance, as a bundle, and its figures. After demo.sh, in the same
# folder; meant for a GPU, where a step takes 0.2 s (two cores take several seconds). Run it again after it was stopped. The bundle
# goes to $STUDENT.
#   train/recipes/distilled.sh [FOLDER] [STEPS] [KEY=VALUE ...]
set -euo pipefail
work=${1:-runs/demo} steps=${2:-4} out=${STUDENT:-engines/distilled/demo}
first=$work/first student=$work/student-$steps

case $steps in
    1) taught=(--substeps 16 length.steps=400) ;;
    *) taught=(--substeps 6 length.steps=900) ;;
esac
if [ -e "$student.done" ]; then
    echo "$student: trained already"
elif [ -d "$student/last" ]; then
    python -m train.run --resume "$student" "${@:3}"
else
    rm -rf "$student"
    python -m train.distill --teacher "$work/run/best" --steps "$steps" "${taught[@]}" out="$student" \
        length.batch=16 length.micro_batch=16 optimizer.learning_rate=3e-4 "${@:3}"
fi
touch "$student.done"

python -m export.build --ckpt "$student/best" --first-stage "$first" --out "$out" --precision fp16 --seconds 5.12
python -m train.evaluate --bundle "$out" --data "$work/world" --split test --clips 200 --first-stage "$first" \
    --out "$work/report-student-$steps"

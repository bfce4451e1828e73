#!/usr/bin/env bash
# A student of the small model that needs no guidance and 1, 2 or 4 steps, as a bundle, and its figures. After demo.sh, in the same
# folder. Run it again after it was stopped. The bundle goes to $STUDENT.
#   train/demo/recipes/distilled.sh [FOLDER] [STEPS] [KEY=VALUE ...]
set -euo pipefail
work=${1:-runs/demo} steps=${2:-4} out=${STUDENT:-engines/distilled/demo}
first=$work/first student=$work/student-$steps

case $steps in
    1 | 2 | 4) substeps=$((4 / steps)) ;; # the teacher's own four steps are as good as more of them
    *)
        echo "steps is $steps; 1, 2 or 4 are allowed" >&2
        exit 2
        ;;
esac
if [ -e "$student.done" ]; then
    echo "$student: trained already"
elif [ -d "$student/last" ]; then
    python -m train.run --resume "$student" "${@:3}"
else
    rm -rf "$student"
    python -m train.distill --teacher "$work/run/best" --steps "$steps" --substeps "$substeps" out="$student" \
        length.steps=250 optimizer.learning_rate=3e-4 optimizer.ema=0.98 "${@:3}"
fi
touch "$student.done"

python -m export.build --ckpt "$student/best" --first-stage "$first" --out "$out" --precision fp16 --seconds 5.12
# What the student's bundle has in common with its teacher's is a link.
for file in {vae_decoder,vocoder}.onnx{,.data}; do
    if cmp -s "engines/demo/$file" "$out/$file"; then ln -srf "engines/demo/$file" "$out/$file"; fi
done
python -m train.demo.evaluate --bundle "$out" --data "$work/world" --split test --clips 200 --first-stage "$first" \
    --out "$work/report-student-$steps"

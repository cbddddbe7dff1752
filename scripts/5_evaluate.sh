#!/usr/bin/env bash
# Evaluation on held-out frames, the table of rounds, and the report in out/$NAME. Without ground truth the rounds are
# counted and compared with one another; without held-out frames, as of imported videos, on those of the training.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

truth=(--annotations "$TRUTH")
if [[ -f "$TRAIN" ]]; then
    [[ -f "$VAL" ]] || VAL="$TRAIN"
    # A path that somebody gave must exist; the usual one may be absent.
    [[ -f "$TRUTH" || "$TRUTH" != "$DATA/annotations/val.json" ]] || truth=()
fi

stage motion predict --preset "$PRESET" --data "$DATA" --split "$VAL" \
    --weights "$SAVE/motion" --out "$SAVE/motion_val"
run moduv measure --preset "$PRESET" --run "$SAVE" --data "$DATA" --split "$VAL" \
    ${truth[@]+"${truth[@]}"} --out "$SAVE/evaluation"
run moduv report --preset "$PRESET" --run "$SAVE" --data "$DATA" --split "$VAL" \
    ${truth[@]+"${truth[@]}"} --out "out/$NAME"

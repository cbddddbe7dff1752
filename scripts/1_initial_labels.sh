#!/usr/bin/env bash
# Stage 1: raw frames -> Dynamo-Depth -> motion masks and depth -> initial labels L0.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

stage motion train --preset "$PRESET" --data "$DATA" --split "$TRAIN" --out "$SAVE/motion"
stage motion predict --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
    --weights "$SAVE/motion" --out "$SAVE/motion_outputs"
run moduv labels initial --preset "$PRESET" --split "$TRAIN" \
    --motion "$SAVE/motion_outputs" --data "$DATA" --out "$SAVE/L0_pseudo_labels"

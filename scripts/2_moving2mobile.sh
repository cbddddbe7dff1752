#!/usr/bin/env bash
# Stage 2, Moving2Mobile: a short training on L0 -> predictions on the training frames -> L1.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

stage round moving2mobile --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
    --labels "$SAVE/L0_pseudo_labels" --out "$SAVE/R1_M2M"
stage labels mobile --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
    --detector "$SAVE/R1_M2M" --out "$SAVE/L1_pseudo_labels"

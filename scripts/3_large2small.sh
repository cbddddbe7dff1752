#!/usr/bin/env bash
# Stage 3, Large2Small: one detector for large, one for small objects, trained on L1 -> merged labels L2.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

for scale in large small; do
    moduv round "$scale" --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
        --labels "$SAVE/L1_pseudo_labels" --out "$SAVE/R2_L2S_$scale"
done
moduv labels aggregated --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
    --large "$SAVE/R2_L2S_large" --small "$SAVE/R2_L2S_small" --out "$SAVE/L2_pseudo_labels"

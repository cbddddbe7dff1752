#!/usr/bin/env bash
# Stage 4: the final detector, trained on L2.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

stage round final --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
    --labels "$SAVE/L2_pseudo_labels" --out "$SAVE/R3_Final"

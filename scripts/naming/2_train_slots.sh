#!/usr/bin/env bash
# Names, step 2: slots share the tokens of a clip among them, over the frozen transformer of step 1.
#   bash scripts/naming/2_train_slots.sh [options of the numbered scripts]
# ENCODER names other weights of a pre-training. Weights come to save/NAME/names/slots/weights.pth.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

name slots --preset "$PRESET" --encoder "${ENCODER:-$NAMES/videomae/weights.pth}" --data "$DATA" --split "$TRAIN" \
    --out "$NAMES/slots"

#!/usr/bin/env bash
# Names, step 1: the video transformer of a single frame a token learns from hidden patches, without labels.
#   bash scripts/naming/1_pretrain_videomae.sh [options of the numbered scripts]
# Weights come to save/NAME/names/videomae/weights.pth.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

name pretrain --preset "$PRESET" --data "$DATA" --split "$TRAIN" --out "$NAMES/videomae"

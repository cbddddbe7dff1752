#!/usr/bin/env bash
# What the numbered scripts share: settings from the environment, with the built-in street world as default.
#   NAME    name of the run; everything it makes lies under save/$NAME
#   DATA    folder of the frames
#   SPLITS  folder of train_files.txt and val_files.txt
#   PRESET  street, paper, or a YAML file of the same form
#   TRUTH   COCO JSON of the validation split, if there is one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
moduv_environment

export NAME="${NAME:-street}" DATA="${DATA:-data/street}" PRESET="${PRESET:-street}"
export SPLITS="${SPLITS:-$DATA/splits}" SAVE="save/$NAME"
TRAIN="$SPLITS/train_files.txt"
VAL="$SPLITS/val_files.txt"
TRUTH="${TRUTH:-$DATA/annotations/val.json}"
export TRAIN VAL TRUTH

# Keep freed memory for the next training step instead of giving it back to the system: on a CPU a fifth
# faster with glibc, without effect elsewhere.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-2147483648}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-8589934592}"

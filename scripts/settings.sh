#!/usr/bin/env bash
# What the numbered scripts share: settings from flags or the environment, with the built-in street world as
# default, and how a stage is started.
#   --name    NAME    name of the run; everything it makes lies under save/$NAME (or SAVE)
#   --data    DATA    folder of the frames
#   --splits  SPLITS  folder of train_files.txt and val_files.txt
#   --preset  PRESET  street, paper, or a YAML file of the same form
#   --truth   TRUTH   COCO JSON of the validation split, if there is one
#   --gpus    GPUS    processes a stage is run on, each with a GPU of its own where there are GPUs
#   --dry-run         print the commands, do nothing
#   --help            print this
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

DRY_RUN="${DRY_RUN:-}"
while [[ $# -gt 0 ]]; do
    case "$1" in
        --name | --data | --splits | --preset | --truth | --gpus | --part)
            if [[ $# -lt 2 ]]; then
                echo "moduv: error: $1 needs a value; --help says which." >&2
                exit 2
            fi
            variable="${1#--}"
            export "${variable^^}=$2"
            shift 2
            ;;
        --dry-run)
            export DRY_RUN=1
            shift
            ;;
        -h | --help)
            moduv_help "scripts/${0##*/}" scripts/settings.sh
            exit
            ;;
        *)
            echo "moduv: error: unknown option $1; --help names those there are." >&2
            exit 2
            ;;
    esac
done

export NAME="${NAME:-street}" DATA="${DATA:-data/street}" PRESET="${PRESET:-street}" GPUS="${GPUS:-1}"
export SPLITS="${SPLITS:-$DATA/splits}" SAVE="${SAVE:-save/$NAME}"
TRAIN="$SPLITS/train_files.txt"
VAL="$SPLITS/val_files.txt"
TRUTH="${TRUTH:-$DATA/annotations/val.json}"
export TRAIN VAL TRUTH
if ! [[ "$GPUS" =~ ^[1-9][0-9]*$ ]]; then
    echo "moduv: error: GPUS is '$GPUS'; give the number of processes, 1 or more." >&2
    exit 2
fi
# A dry run needs nothing installed.
if [[ -n "$DRY_RUN" ]]; then
    python="${MODUV_PYTHON:-python3}"
    moduv_check_python "$python"
else
    moduv_environment
    python=python
fi

# Keep freed memory for the next training step instead of giving it back to the system: on a CPU a fifth
# faster with glibc, without effect elsewhere.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-2147483648}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-8589934592}"

# Run steps of the chain, whose folders and inputs `moduv/runs/chains.py` knows.
steps() {
    "$python" -m moduv.runs.chains "$@" --run "$SAVE" --data "$DATA" --train "$TRAIN" --val "$VAL" \
        --preset "$PRESET" --processes "$GPUS" --report "out/$NAME" ${TRUTH:+--truth "$TRUTH"} \
        --true-labels "$DATA/annotations/train.json" ${DRY_RUN:+--dry-run}
}

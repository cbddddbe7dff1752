#!/usr/bin/env bash
# Dense correspondences: carries first masks through the videos of a data set, and measures J and F where truth is there.
#   bash scripts/correspondence/infer.sh [davis|ytvos|street] [options of moduv correspondence propagate]
# The data sets lie below DATA (data) as DAVIS and ytvos; `street`, the default, is what train.sh has rendered there.
# WEIGHTS is a file, official or ours, or the folder of a training (save/correspondence_street, of ytvos for the others).
# Masks and pictures come to OUT (WEIGHTS, without suffix, _NAME), for ytvos with the Annotations.zip of its server.
# GPUS processes share the videos.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh

name="${1:-street}"
shift $(($# > 0))
dataset="$name" trained=ytvos preset=paper
case "$name" in
    -h | --help)
        moduv_help scripts/correspondence/infer.sh
        exit
        ;;
    davis) data="${DATA:-data}/DAVIS" ;;
    ytvos) data="${DATA:-data}/ytvos" ;;
    street) data="${DATA:-data/street_clips}/davis" dataset=davis trained=street preset=street ;;
    *)
        echo "moduv: error: unknown data set $name; --help names those there are." >&2
        exit 2
        ;;
esac
moduv_environment

weights="${WEIGHTS:-save/correspondence_$trained}"
out="${OUT:-${weights%.pth}_$name}"
words=(correspondence propagate --preset "$preset" --dataset "$dataset" --data "$data")
words+=(--weights "$weights" --out "$out" "$@")
if [[ "${GPUS:-1}" -gt 1 ]]; then
    python -m moduv.engine.launch --standalone --nproc_per_node "$GPUS" -m moduv.cli "${words[@]}"
else
    moduv "${words[@]}"
fi
if [[ "$dataset" == davis ]]; then
    for results in "$out"/*_vos; do
        moduv evaluate vos --truth "$data" --results "$results"
    done
fi

#!/usr/bin/env bash
# Dense correspondences: carries first masks through the videos of a data set, and measures J and F where truth is there.
#   bash scripts/correspondence/infer.sh [davis|ytvos|street] [options of moduv correspondence propagate]
# The data sets lie below DATA (data) as DAVIS and ytvos; `street`, the default, is what train.sh has rendered there.
# WEIGHTS is a file, official or ours, or the folder of a training (save/correspondence_street, of ytvos for the others).
# Masks and pictures come to OUT (WEIGHTS, without suffix, _NAME), for ytvos with the Annotations.zip of its server.
# PRESET takes the place of the data set's own. GPUS processes share the videos. --dry-run prints the commands.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

dataset="$name" trained=ytvos preset=paper
case "$name" in
    davis) data="${DATA:-data}/DAVIS" ;;
    ytvos) data="${DATA:-data}/ytvos" ;;
    street) data="${DATA:-data/street_clips}/davis" dataset=davis trained=street preset=street_clips ;;
    *) unknown ;;
esac
weights="${WEIGHTS:-save/correspondence_$trained}"
out="${OUT:-${weights%.pth}_$name}"
run correspondence propagate --preset "${PRESET:-$preset}" --dataset "$dataset" --data "$data" --weights "$weights" \
    --out "$out" "${more[@]}"
if [[ "$dataset" == davis ]]; then
    for results in "$out"/*_vos; do
        GPUS=1 run evaluate vos --truth "$data" --results "$results"
    done
fi

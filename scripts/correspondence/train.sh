#!/usr/bin/env bash
# Dense correspondences: trains the network on unlabeled videos and writes weights.pth.
#   bash scripts/correspondence/train.sh [ytvos|oxuva|track|kinetics|street] [options of moduv correspondence train]
# The data sets lie below DATA (data) as their authors pack them; `street`, the default, is rendered. Weights come to
# OUT (save/correspondence_NAME); VALIDATION names held-out sequences in the layout of DAVIS 2017, and is data/DAVIS
# where that is there. PRESET takes the place of the data set's own. GPUS processes share the batches. --dry-run
# prints the commands.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

data="${DATA:-data}" validation="${VALIDATION:-${DATA:-data}/DAVIS}"
case "$name" in
    track) preset=tracknet ;;
    ytvos | oxuva | kinetics) preset="$name" ;;
    street) preset=street_clips data="${DATA:-data/street_clips}" validation="${VALIDATION:-$data/davis}" ;;
    *) unknown ;;
esac
preset="${PRESET:-$preset}"
if [[ "$name" == street ]]; then
    GPUS=1 run street render --preset "$preset" --root "$data"
    GPUS=1 run street sequences --root "$data" --out "$data/davis"
fi
[[ -d "$validation" || "$name" == street ]] || validation=""
run correspondence train --preset "$preset" --data "$data" --out "${OUT:-save/correspondence_$name}" \
    ${validation:+--validation "$validation"} "${more[@]}"

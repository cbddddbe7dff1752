#!/usr/bin/env bash
# Dense correspondences: trains the network on unlabeled videos and writes weights.pth.
#   bash scripts/correspondence/train.sh [ytvos|oxuva|track|kinetics|street] [options of moduv correspondence train]
# The data sets lie below DATA (data) as their authors pack them; `street`, the default, is rendered. Weights come to
# OUT (save/correspondence_NAME); VALIDATION names held-out sequences in the layout of DAVIS 2017, and is data/DAVIS
# where that is there. GPUS processes share the batches.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh

name="${1:-street}"
shift $(($# > 0))
case "$name" in
    -h | --help)
        moduv_help scripts/correspondence/train.sh
        exit
        ;;
    track) preset=tracknet ;;
    ytvos | oxuva | kinetics | street) preset="$name" ;;
    *)
        echo "moduv: error: unknown data set $name; --help names those there are." >&2
        exit 2
        ;;
esac
moduv_environment

data="${DATA:-data}" validation="${VALIDATION:-${DATA:-data}/DAVIS}"
if [[ "$name" == street ]]; then
    data="${DATA:-data/street_clips}" validation="${VALIDATION:-${DATA:-data/street_clips}/davis}"
    moduv street render --preset street_clips --root "$data"
    moduv street sequences --root "$data" --out "$data/davis"
fi
[[ -d "$validation" ]] || validation=""
words=(correspondence train --preset "$preset" --data "$data" --out "${OUT:-save/correspondence_$name}")
words+=(${validation:+--validation "$validation"} "$@")
if [[ "${GPUS:-1}" -gt 1 ]]; then
    exec python -m moduv.engine.launch --standalone --nproc_per_node "$GPUS" -m moduv.cli "${words[@]}"
fi
exec moduv "${words[@]}"

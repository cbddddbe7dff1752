#!/usr/bin/env bash
# Stage 3, Large2Small: one detector for large, one for small objects, trained on L1 -> merged labels L2.
# --part large, small or labels (or PART) does one of the three alone, so that the trainings can be two jobs.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

part="${PART:-all}"
case "$part" in
    all | large | small | labels) ;;
    *)
        echo "moduv: error: part '$part' is unknown; choose large, small, labels or all." >&2
        exit 2
        ;;
esac
for scale in large small; do
    if [[ "$part" == all || "$part" == "$scale" ]]; then
        stage round "$scale" --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
            --labels "$SAVE/L1_pseudo_labels" --out "$SAVE/R2_L2S_$scale"
    fi
done
if [[ "$part" == all || "$part" == labels ]]; then
    stage labels aggregated --preset "$PRESET" --data "$DATA" --split "$TRAIN" \
        --large "$SAVE/R2_L2S_large" --small "$SAVE/R2_L2S_small" --out "$SAVE/L2_pseudo_labels"
fi

#!/usr/bin/env bash
# Evaluation on held-out frames, the table of rounds, and the report in out/$NAME.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

stage motion predict --preset "$PRESET" --data "$DATA" --split "$VAL" \
    --weights "$SAVE/motion" --out "$SAVE/motion_val"
run moduv measure --preset "$PRESET" --run "$SAVE" --data "$DATA" --split "$VAL" \
    --annotations "$TRUTH" --out "$SAVE/evaluation"
run moduv report --preset "$PRESET" --run "$SAVE" --data "$DATA" --split "$VAL" \
    --annotations "$TRUTH" --out "out/$NAME"

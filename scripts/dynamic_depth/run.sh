#!/usr/bin/env bash
# Depth that holds on what moves, from a finished run: pseudo-depth of its moving objects teaches its stage 1.
#   bash scripts/dynamic_depth/run.sh [options of the numbered scripts]
# 1 which of the objects in L2 move, by L0; 2 their depth, from the road they stand on; 3 stage 1 trained on, in
# save/NAME/depth/weights; 4 its depth of the held-out frames; 5 where there is true depth, errors before and after.
case "${1:-}" in
    -h | --help)
        cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
        source scripts/environment.sh
        moduv_help scripts/dynamic_depth/run.sh scripts/settings.sh
        exit
        ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

steps depth_objects pseudo_depth depth depth_val
if [[ -z "$DRY_RUN" && -d "$DATA/truth" ]]; then
    for outputs in motion_val depth_val; do
        [[ -d "$SAVE/$outputs" ]] || continue
        echo "$outputs:"
        "$python" -m moduv.cli evaluate depth --motion "$SAVE/$outputs" --truth "$DATA/truth" --split "$VAL" \
            --out "$SAVE/evaluation/$outputs.json"
    done
fi

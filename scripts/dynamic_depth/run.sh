#!/usr/bin/env bash
# Depth that holds on what moves.
#   bash scripts/dynamic_depth/run.sh [options of the numbered scripts]
# From a finished run, the short way: pseudo-depth of its moving objects teaches its stage 1.
# 1 which of the objects in L2 move, by L0; 2 their depth, from the road they stand on; 3 stage 1 trained on, in
# save/NAME/depth/weights; 4 its depth of the held-out frames; 5 where there is true depth, errors before and after.
# The published system, from raw frames, is chosen by a preset whose name ends in given_masks or unsupervised:
#   --preset cityscapes_given_masks: 1 depth, ego-motion, residual flow; 2 what it says of each frame; 3, 4 masks of
#     objects and road from DATA/masks and DATA/road_masks; 5 which objects move; 6 their own depth; 7 alignment of its
#     scale; 8 pseudo-depth; 9 final training, in save/NAME/final/weights; 10, 11 depth before and after; 12 errors.
#   --preset cityscapes_unsupervised: instead of 3 and 4, ground segmentation, slots, a detector trained on them twice.
# Every step is kept, and continues where it was when the script is run again.
case "${1:-}" in
    -h | --help)
        cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
        source scripts/environment.sh
        moduv_help scripts/dynamic_depth/run.sh scripts/settings.sh
        exit
        ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

case "$(basename "$PRESET" .yaml)" in
    *given_masks | *unsupervised)
        chain="$(basename "$PRESET" .yaml)"
        [[ "$chain" == *given_masks ]] && chain=given_masks || chain=unsupervised
        outputs=(pixelwise_val final_val)
        protocol=cityscapes
        [[ -f "$SPLITS/val_truth.txt" ]] && VAL="$SPLITS/val_truth.txt"
        steps --chain "$chain"
        ;;
    *)
        steps depth_objects pseudo_depth depth depth_val
        outputs=(motion_val depth_val)
        protocol=street
        ;;
esac
if [[ -z "$DRY_RUN" && -d "$DATA/truth" ]]; then
    for name in "${outputs[@]}"; do
        [[ -d "$SAVE/$name" ]] || continue
        echo "$name:"
        "$python" -m moduv.cli evaluate depth --motion "$SAVE/$name" --truth "$DATA/truth" --split "$VAL" \
            --protocol "${PROTOCOL:-$protocol}" --out "$SAVE/evaluation/$name.json"
    done
fi

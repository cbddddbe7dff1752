#!/usr/bin/env bash
# Names, step 4: finds and names objects of the held-out frames, and measures it where there is ground truth.
#   CLIP=open_clip_model.safetensors bash scripts/naming/4_evaluate.sh [options of the numbered scripts]
# SLOTS and PATCHES name other weights, published ones too, VOCABULARY the names (road). Detections come to
# save/NAME/names/found/detections.json, measures beside them.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

need CLIP "name the weights of the CLIP model that patches were trained beside"
found="$NAMES/found"
GPUS=1 name locate --preset "$PRESET" --slots "${SLOTS:-$NAMES/slots/weights.pth}" \
    --patches "${PATCHES:-$NAMES/patches/weights.pth}" --data "$DATA" --split "$VAL" \
    --vocabulary "${VOCABULARY:-road}" --encoder "open_clip:ViT-B-16-quickgelu:$CLIP" --out "$found"
if [[ -z "$DRY_RUN" && -f "$TRUTH" ]]; then
    "$python" -m moduv.cli evaluate localisation --ground_truth "$TRUTH" --predictions "$found/detections.json" \
        --score 0 --out "$found/localisation.json"
fi

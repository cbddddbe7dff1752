#!/usr/bin/env bash
# From nothing to the report: makes the environment, renders the street world, runs every stage, evaluates,
# writes out/street/report.html. Can be stopped at any time; the same command continues.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# A finished run of these settings is shown, not checked stage by stage.
stamp="$SAVE/.quickstart"
wanted="$PRESET $DATA $(cat moduv/presets/*.yaml | cksum)"
if [[ -z "$DRY_RUN" && -f "out/$NAME/report.html" && "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]] &&
    [[ "$(find "$SAVE" -maxdepth 2 -name manifest.json | wc -l)" -ge 12 ]]; then
    steps evaluation
    echo "report: out/$NAME/report.html"
    exit
fi

steps street
bash scripts/1_initial_labels.sh
bash scripts/2_moving2mobile.sh
bash scripts/3_large2small.sh
bash scripts/4_final.sh
# The supervised upper bound: the same detector and budget on ground truth. Nothing above has seen it.
steps true_labels supervised
bash scripts/5_evaluate.sh
[[ -n "$DRY_RUN" ]] || echo "$wanted" >"$stamp"

#!/usr/bin/env bash
# Evaluation on held-out frames, the table of rounds, and the report in out/$NAME. Without ground truth the rounds are
# counted and compared with one another; without held-out frames, as of imported videos, on those of the training.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

if [[ -f "$TRAIN" ]]; then
    [[ -f "$VAL" ]] || VAL="$TRAIN"
    # A path that somebody gave must exist; the usual one may be absent.
    [[ -f "$TRUTH" || "$TRUTH" != "$DATA/annotations/val.json" ]] || TRUTH=""
fi
steps motion_val evaluation report

#!/usr/bin/env bash
# Stage 3, Large2Small: one detector for large, one for small objects, trained on L1 -> merged labels L2.
# --part large, small or labels (or PART) does one of the three alone, so that the trainings can be two jobs.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

case "${PART:-all}" in
    all) steps large small L2 ;;
    large | small) steps "$PART" ;;
    labels) steps L2 ;;
    *)
        echo "moduv: error: part '$PART' is unknown; choose large, small, labels or all." >&2
        exit 2
        ;;
esac

#!/usr/bin/env bash
# Identities of a finished run's labels L2: a network learns from the run's frames what looks alike, and follows objects.
#   bash scripts/correspondence/labels.sh [options of the numbered scripts]
# Weights come to save/NAME/correspondence, labels with a track_id to save/NAME/L2_tracked_labels.
case "${1:-}" in
    -h | --help)
        cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
        source scripts/environment.sh
        moduv_help scripts/correspondence/labels.sh scripts/settings.sh
        exit
        ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

steps correspondence L2_tracked

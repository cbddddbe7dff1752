#!/usr/bin/env bash
# Stage 2, Moving2Mobile: a short training on L0 -> predictions on the training frames -> L1. Before it, where the preset
# asks for it (steps: {L0_carried: true}), L0 is carried to neighbouring frames without labels.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
steps L0_carried moving2mobile L1

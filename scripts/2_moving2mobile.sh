#!/usr/bin/env bash
# Stage 2, Moving2Mobile: a short training on L0 -> predictions on the training frames -> L1.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
steps moving2mobile L1

#!/usr/bin/env bash
# Stage 4: the final detector, trained on L2.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
steps final

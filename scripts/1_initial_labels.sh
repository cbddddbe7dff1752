#!/usr/bin/env bash
# Stage 1: raw frames -> Dynamo-Depth -> motion masks and depth -> initial labels L0.
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
steps motion motion_outputs L0

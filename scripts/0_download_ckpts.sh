#!/usr/bin/env bash
# The official checkpoints: what each is, its licence, where its authors publish it, what it becomes under
# ckpts/. Then fetches those that the preset `paper` starts from, or the given names and groups:
#   bash scripts/0_download_ckpts.sh dynamo-depth
#   bash scripts/0_download_ckpts.sh moduv --source ckpts.zip    what the authors' form gave
# Sizes and hashes are recorded in ckpts/checksums.json on first use and compared from then on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
case "${1:-}" in
    -h | --help)
        moduv_help scripts/0_download_ckpts.sh
        exit
        ;;
esac
moduv_environment

moduv checkpoints list
moduv checkpoints fetch "$@"

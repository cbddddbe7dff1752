#!/usr/bin/env bash
# What the scripts of names share: the flags of the numbered scripts, and how a command is shown or run. Everything
# comes to save/NAME/names.
case "${1:-}" in
    -h | --help)
        cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
        source scripts/environment.sh
        moduv_help "scripts/naming/${0##*/}" scripts/settings.sh
        exit
        ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh"

export NAMES="$SAVE/names"

# A file or folder that a variable names; without it, the script ends in a sentence.
need() {
    if [[ -z "${!1:-}" && -z "$DRY_RUN" ]]; then
        echo "moduv: error: $1 is not set; $2." >&2
        exit 2
    fi
    printf -v "$1" '%s' "${!1:-$1}"
}

# moduv name …, on as many processes as GPUS says.
name() {
    if [[ -n "$DRY_RUN" ]]; then
        echo "+ moduv name $*"
    elif [[ "$GPUS" -gt 1 ]]; then
        "$python" -m moduv.engine.launch --standalone --nproc_per_node "$GPUS" -m moduv.cli name "$@"
    else
        "$python" -m moduv.cli name "$@"
    fi
}

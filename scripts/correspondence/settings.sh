#!/usr/bin/env bash
# What the scripts of correspondences share: words, and how a command is shown or run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh

# The first word, if it is no option, names the data set; `more` are the options of the command.
name=street more=()
for word in "$@"; do
    case "$word" in
        -h | --help)
            moduv_help "scripts/correspondence/${0##*/}"
            exit
            ;;
        --dry-run) DRY_RUN=1 ;;
        *) more+=("$word") ;;
    esac
done
if [[ ${#more[@]} -gt 0 && "${more[0]}" != -* ]]; then
    name="${more[0]}" more=("${more[@]:1}")
fi

# moduv …, on as many processes as GPUS says. A dry run needs nothing installed.
run() {
    if [[ -n "${DRY_RUN:-}" ]]; then
        echo "+ moduv $*"
        return
    fi
    moduv_environment
    if [[ "${GPUS:-1}" -gt 1 ]]; then
        python -m moduv.engine.launch --standalone --nproc_per_node "$GPUS" -m moduv.cli "$@"
    else
        moduv "$@"
    fi
}

unknown() {
    echo "moduv: error: unknown data set $name; --help names those there are." >&2
    exit 2
}

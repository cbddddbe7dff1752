#!/usr/bin/env bash
# Makes the virtual environment once, and again when the requirements change; sourced by the other scripts.
# MODUV_VENV chooses its folder, MODUV_PYTHON the interpreter; an activated environment that already has
# moduv is used as it is.

# Print the comments at the heads of the files named.
moduv_help() {
    local file
    for file in "$@"; do
        awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$file"
    done
}

# Refuse an interpreter that is too old.
moduv_check_python() {
    if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "moduv needs Python 3.10 or newer; set MODUV_PYTHON to one." >&2
        return 2
    fi
}

moduv_environment() {
    local extras="${1:-}" venv="${MODUV_VENV:-.venv}" python="${MODUV_PYTHON:-python3}" stamp wanted
    if [[ -n "${MODUV_ENVIRONMENT:-}" ]]; then
        return
    fi
    if [[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]] && [[ -z "$extras" ]] &&
        python -c 'import moduv, torch, torchvision' 2>/dev/null; then
        export MODUV_ENVIRONMENT=ready
        return
    fi
    moduv_check_python "$python"
    stamp="$venv/.moduv-installed"
    wanted="$(cat requirements.txt pyproject.toml | cksum) ${extras:-plain}"
    if [[ ! -f "$stamp" ]] || { [[ "$(cat "$stamp")" != "$wanted" ]] && [[ "$(cat "$stamp")" != "${wanted% *} [dev]" ]]; }; then
        echo "Installing into $venv (a few minutes the first time) …"
        [[ -x "$venv/bin/python" ]] || "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extras"
        echo "$wanted" >"$stamp"
    fi
    # shellcheck disable=SC1091
    source "$venv/bin/activate"
    export MODUV_ENVIRONMENT=ready
}

#!/usr/bin/env bash
# Makes the environment, checks style and types, runs the tests. --all adds the slow tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
moduv_environment "[dev]"

ruff check .
ruff format --check .
mypy
shellcheck scripts/*.sh .ci/run

# Two test processes with one thread each: torch's threads would otherwise starve each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
arguments=(--numprocesses "${MODUV_TEST_PROCESSES:-2}" --dist loadfile --durations 10)
if [[ "${1:-}" == "--all" ]]; then
    shift
    arguments+=(-m "slow or not slow")
fi
python -m pytest "${arguments[@]}" "$@"

#!/usr/bin/env bash
# Submits every stage to Slurm, each after what it needs; Large2Small's two trainings run side by side.
#   SBATCH="sbatch --partition gpu --gpus-per-node 4 --time 24:00:00" bash scripts/slurm_chain.sh --name waymo \
#       --data data/waymo --preset paper
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
read -r -a sbatch <<<"${SBATCH:-sbatch}"

# Submit a script after the jobs of a colon-separated list; print the new job's number.
submit() {
    local name="$1" after="$2"
    shift 2
    "${sbatch[@]}" --parsable --job-name "moduv-$name" ${after:+--dependency "afterok:$after"} \
        scripts/slurm.sbatch "$@" | cut -d';' -f1
}

labels="$(submit L0 "" scripts/1_initial_labels.sh "$@")"
mobile="$(submit m2m "$labels" scripts/2_moving2mobile.sh "$@")"
large="$(submit large "$mobile" scripts/3_large2small.sh --part large "$@")"
small="$(submit small "$mobile" scripts/3_large2small.sh --part small "$@")"
merged="$(submit L2 "$large:$small" scripts/3_large2small.sh --part labels "$@")"
final="$(submit final "$merged" scripts/4_final.sh "$@")"
echo "submitted $labels $mobile $large $small $merged $final"

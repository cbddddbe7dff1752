#!/usr/bin/env bash
# Submits every stage and the evaluation to Slurm, each after what it needs; Large2Small's two trainings run side by
# side. Takes the options of the stage scripts, but --part; --dry-run prints what the jobs would do.
#   SBATCH="sbatch --partition gpu --gpus-per-node 4 --time 24:00:00" bash scripts/slurm_chain.sh --name waymo \
#       --data data/waymo --preset paper
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
read -r -a sbatch <<<"${SBATCH:-sbatch}"

unset PART
for word in "$@"; do
    case "$word" in
        -h | --help)
            moduv_help scripts/slurm_chain.sh scripts/settings.sh
            exit
            ;;
        --dry-run) DRY_RUN=1 ;;
        --part)
            echo "moduv: error: the chain does every part; leave out --part, or start scripts/3_large2small.sh." >&2
            exit 2
            ;;
    esac
done

# What the jobs would do, before any is submitted: a wrong option ends it here.
for stage in 1_initial_labels 2_moving2mobile 3_large2small 4_final 5_evaluate; do
    bash "scripts/$stage.sh" --dry-run "$@"
done
[[ -z "${DRY_RUN:-}" ]] || exit 0

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
evaluated="$(submit evaluate "$final" scripts/5_evaluate.sh "$@")"
echo "submitted $labels $mobile $large $small $merged $final $evaluated"

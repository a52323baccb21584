#!/bin/sh
# A prolog of Slurm: no job begins on a machine with a sick GPU, or whose driver does not answer. In slurm.conf:
#   Prolog=/etc/slurm/prolog.d/*.sh
#   PrologFlags=Alloc
# Where it fails slurmd drains the node and the job is queued again. A prolog must not call Slurm's own commands, so the
# reason is in the system log. Flags are in the variable, since slurmd gives none: GPU_CHECK_FLAGS='--expect-gpus 8'.
set -u
[ -n "${SLURM_JOB_GPUS:-}" ] || exit 0
# shellcheck disable=SC2086 # several flags
verdict=$("${GPU_EXPORTER:-gpu-exporter}" check --fail-on critical ${GPU_CHECK_FLAGS:-} 2>&1)
status=$?
[ "$status" -eq 0 ] && exit 0
logger -t gpu-prolog -- "job ${SLURM_JOB_ID:-}: $(printf '%s\n' "$verdict" | sed -n 1p)"
exit 1

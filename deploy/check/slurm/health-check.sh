#!/bin/sh
# Slurm's HealthCheckProgram: takes a node with a sick GPU out of use, with a reason for sinfo -R. In slurm.conf:
#   HealthCheckProgram=/etc/slurm/health-check.sh
#   HealthCheckInterval=300
#   HealthCheckNodeState=ANY,CYCLE
# Warnings, and what cannot be told, are logged and change nothing. A node that somebody drained keeps its reason, and
# none is put back by itself: scontrol update nodename=… state=resume. Flags are given on: --expect-gpus 8.
set -u
verdict=$("${GPU_EXPORTER:-gpu-exporter}" check "$@" 2>&1)
status=$?
reason=$(printf '%s\n' "$verdict" | sed -n 1p)
[ "$status" -eq 0 ] && exit 0
logger -t gpu-health -- "$reason"
[ "$status" -eq 2 ] || exit 0

node=${SLURMD_NODENAME:-$(uname -n)}
node=${node%%.*}
case $(scontrol --oneliner show node "$node") in
*State=*DRAIN*) exit 0 ;;
esac
exec scontrol update nodename="$node" state=drain reason="gpu $reason"

#!/usr/bin/env bash
# One rank of a test: puts itself on an emulated node, preloads the library, and becomes the program. NODES is how many ranks a node has, or
# "alternate" for ranks that are not numbered node by node, or "one". With ONLY only that rank preloads.
#
# usage: [NODES=N] [ONLY=RANK] rank.sh LIBRARY|none PROGRAM [ARGUMENT...]
set -euo pipefail
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:?"this is started by mpirun"}}
case ${NODES:-one} in
one) ;;
alternate) export HFR_NODE=node$((rank % 2)) ;;
*) export HFR_NODE=node$((rank / NODES)) ;;
esac
library=$1
shift
if [ "$library" != none ] && [ "${ONLY:-$rank}" = "$rank" ]; then
    export LD_PRELOAD=$library
fi
exec "$@"

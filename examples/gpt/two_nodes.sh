#!/usr/bin/env bash
# Trains as on two nodes, on this machine alone: two torchrun agents, as two hosts would run them, each with a node name of its own, and
# nothing but TCP between the two. Within a node, ranks share memory. Arguments go to train.py; RANKS is the number of ranks per node,
# TORCHRUN the command to use for torchrun. When one agent fails the other is ended, and the script fails.
#
#   examples/gpt/two_nodes.sh --backend hfr --strategy ddp
set -euo pipefail
read -ra torchrun <<<"${TORCHRUN:-torchrun}"
trainer=$(dirname "${BASH_SOURCE[0]}")/train.py
# torchrun's static rendezvous wants a port that both know beforehand.
port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}

agents=()
trap 'kill "${agents[@]}" 2>/dev/null || true; wait' EXIT
for number in 0 1; do
    HFR_NODE=node$number HFR_TRANSPORT=tcp OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
        "${torchrun[@]}" --nnodes 2 --node-rank "$number" --nproc-per-node "${RANKS:-2}" \
        --master-addr 127.0.0.1 --master-port "$port" "$trainer" "$@" &
    agents+=($!)
done
wait -n
wait -n

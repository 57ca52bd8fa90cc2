#!/bin/sh
# job.sh NODES RANKS WIRE ARGS...: in the machine of run-in-vm.sh, a job of `hfr ARGS...` on that many nodes with that many ranks each; node K uses device
# rxeK, or with RAILS=2 rxe(2K) and rxe(2K+1) as its rails. Prints what rank 0 says, and of ranks that fail the end of what they say; fails if any does.
nodes=$1 ranks=$2 wire=$3; shift 3
said=$(mktemp -d) rank=0 node=0
while [ $node -lt $nodes ]; do
  hca==rxe$node
  [ "${RAILS:-1}" = 1 ] || hca==rxe$((2 * node)),rxe$((2 * node + 1))
  local=0
  while [ $local -lt $ranks ]; do
    HFR_RANK=$rank HFR_WORLD_SIZE=$((nodes * ranks)) HFR_COMM_ID=10.66.0.1:29600 HFR_COOKIE=job HFR_NODE=node$node \
      HFR_TRANSPORT=$wire HFR_IB_HCA=$hca HFR_TIMEOUT=${HFR_TIMEOUT:-60} node $node hfr "$@" > $said/$rank 2>&1 &
    eval "pid$rank=$!"
    rank=$((rank + 1)) local=$((local + 1))
  done
  node=$((node + 1))
done
code=0 rank=0
while [ $rank -lt $((nodes * ranks)) ]; do
  eval "wait \$pid$rank" || { code=$?; echo "rank $rank ended with status $code:"; tail -n 5 $said/$rank; }
  rank=$((rank + 1))
done
cat $said/0
rm -r $said
exit $code

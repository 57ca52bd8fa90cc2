#!/bin/sh
# job.sh NODES PER WIRE ARGS...
n=$1 l=$2 wire=$3; shift 3
r=0; k=0; d=$(mktemp -d)
while [ $k -lt $n ]; do j=0; while [ $j -lt $l ]; do
 HFR_RANK=$r HFR_WORLD_SIZE=$((n*l)) HFR_COMM_ID=10.66.0.1:29600 HFR_COOKIE=x HFR_NODE=n$k HFR_TRANSPORT=$wire HFR_IB_HCA==rxe$k HFR_TIMEOUT=60 HFR_LOG=${HFR_LOG:-info} node $k hfr "$@" > $d/$r 2>&1 & 
 eval p$r=$!; r=$((r+1)); j=$((j+1)); done; k=$((k+1)); done
rc=0; r=0; while [ $r -lt $((n*l)) ]; do eval wait \$p$r || { rc=$?; echo "rank $r: status $rc"; tail -5 $d/$r; }; r=$((r+1)); done
cat $d/0; exit $rc

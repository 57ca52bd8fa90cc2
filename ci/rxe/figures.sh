#!/bin/sh
# figures.sh: in the machine of run-in-vm.sh, two nodes: bandwidth and latency of the verbs wire (`wire`) beside perftest's, and all_reduce over verbs beside
# tcp. All in one boot, ours and theirs in turn, because an emulated machine's speed means nothing by itself.
pair() { # pair LABEL PROGRAM ARGS...: server on node 0, client on node 1; the client's table
  label=$1; shift
  node 0 "$@" -d rxe0 -x 1 > /tmp/server 2>&1 & s=$!
  sleep 1
  node 1 "$@" -d rxe1 -x 1 10.66.0.1 2>&1 | awk -v l="$label" '/^ [0-9]/ {print l, $0}'
  wait $s
}
wire() {
  HFR_IB_HCA==rxe0 node 0 wire 0 10.66.0.1:2200 & s=$!
  HFR_IB_HCA==rxe1 node 1 wire 1 10.66.0.1:2200 || exit 1
  wait $s || exit 1
}
for round in ${ROUNDS:-1 2}; do
  echo "round $round: the verbs wire"; wire
  echo "round $round: perftest"
  for size in 65536 262144 1048576; do pair "write_bw" ib_write_bw -s $size -n $((16777216 / size)) -Q 1; done
  for size in 8 4096 65536; do pair "write_lat" ib_write_lat -s $size -n 100; done
  pair "write_lat inline" ib_write_lat -s 8 -n 100 -I 64
  pair "send_lat inline" ib_send_lat -s 8 -n 100 -I 64
done
for round in ${ROUNDS:-1 2}; do
  for kind in verbs tcp; do
    echo "round $round: all_reduce over $kind"
    job.sh 2 1 $kind bench -b 8 -e 2M -f 64 -n 3 -w 1 | grep -E '^ +[0-9]'
  done
done

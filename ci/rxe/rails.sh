#!/bin/sh
# rails.sh: in the machine of run-in-vm.sh with 4 devices: an all_reduce between two nodes of one rank with two rails each, checked element by element, in which
# every device must have sent a good part of the bytes; and the collectives between nodes of two ranks, who have a rail each.
sent() { cat /sys/class/infiniband/rxe$1/ports/1/hw_counters/sent_pkts; }
checked() { # checked RANKS ARGS...: a job over two rails, which must find nothing wrong
  ranks=$1; shift
  if ! RAILS=2 job.sh 2 $ranks verbs bench "$@" > /tmp/said 2>&1 \
    || ! grep -q '^# Out of bounds values : 0 OK' /tmp/said || ! grep -q 'transport=verbs' /tmp/said; then
    cat /tmp/said
    echo "two rails per node, $ranks ranks ... FAILED"
    exit 1
  fi
}
for device in 0 1 2 3; do eval "before$device=\$(sent $device)"; done
HFR_LOG=info checked 1 -b 8M -e 8M -n 2 -w 0
grep 'RDMA ports' /tmp/said
sleep 0.1 # The kernel counts packets, and for some milliseconds gives the same answer again.
for device in 0 1 2 3; do
  eval "packets=\$((\$(sent $device) - before$device))"
  echo "rxe$device sent $packets packets"
  # A third of what one all_reduce has to send, at 4096 bytes each.
  [ $packets -ge 680 ] || { echo "rxe$device carries too little of a rank with two rails ... FAILED"; exit 1; }
done
checked 2 all -b 200 -e 40000 -f 200 -n 1 -w 0
echo "test result: ok. 2 passed; 0 failed; jobs over two rails"

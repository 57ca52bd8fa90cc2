#!/bin/sh
# preflight.sh: in the machine of run-in-vm.sh: takes away, one after the other, what the verbs wire needs, and reads what the program says. Comes last: devices do not come back.
# Each case: what is taken away, a pattern that names the cause, and one that names the remedy.
failed=0 passed=0
case_of() {
  what=$1 cause=$2 remedy=$3
  said=$(HFR_RANK=0 HFR_WORLD_SIZE=2 HFR_COMM_ID=127.0.0.1:29417 HFR_COOKIE=x HFR_TRANSPORT=verbs HFR_CONNECT_TIMEOUT=5 HFR_TIMEOUT=5 \
    timeout 30 hfr bench 2>&1) && said="it ran: $said"
  if echo "$said" | grep -qE "HFR_TRANSPORT=verbs cannot be had: .*$cause" && echo "$said" | grep -qE "$remedy"; then
    echo "$what: $(echo "$said" | tail -n 1)"
    passed=$((passed + 1))
  else
    echo "$what ... FAILED, it says:"
    echo "$said"
    failed=$((failed + 1))
  fi
}
for library in $(find /usr/lib -name 'libibverbs.so.1'); do mv $library $library.away; done
case_of "no libibverbs" "libibverbs is not there" "install it"
for library in $(find /usr/lib -name 'libibverbs.so.1.away'); do mv $library ${library%.away}; done
mv /dev/infiniband /dev/away
case_of "no /dev/infiniband" "/dev/infiniband is missing" "modprobe ib_uverbs"
mv /dev/away /dev/infiniband
k=0; while [ $k -lt $RXE_NODES ]; do ip link set r$k down; k=$((k + 1)); done
case_of "ports down" "no RDMA port can be used: .*rxe0:1 is down" "check the cable"
k=0; while [ $k -lt $RXE_NODES ]; do ip link set r$k up; rdma link delete rxe$k; k=$((k + 1)); done
case_of "no device" "this host has no RDMA device" "(ibv_devices|modprobe)"
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed; what is missing is said"
[ $failed = 0 ]

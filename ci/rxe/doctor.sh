#!/bin/sh
# doctor.sh: in the machine of run-in-vm.sh: what `hfr doctor --look` says of a node with RDMA devices, and `hfr doctor` of a job of two nodes over verbs. An emulated machine is
# slow and its limits are its own, so findings are allowed; what must be there are the port that is up, the pairs and the self-test without a wrong element.
hfr doctor --look > /tmp/look 2>&1
code=$?
if ! grep -q '^ok *port rxe0/1: up' /tmp/look; then
  cat /tmp/look
  echo "doctor --look ended with status $code and does not see the port ... FAILED"
  exit 1
fi
job.sh 2 1 verbs doctor --quick > /tmp/job 2>&1
if ! grep -q 'transport verbs' /tmp/job || ! grep -q 'self-test: .*every element right on 2 ranks' /tmp/job || ! grep -q 'pairs' /tmp/job; then
  cat /tmp/job
  echo "doctor in a job over verbs ... FAILED"
  exit 1
fi
grep -E 'pairs|self-test' /tmp/job
echo "test result: ok. 2 passed; 0 failed; the doctor, alone and in a job"

#!/bin/sh
# matrix.sh [NODESxRANKS...]: in the machine of run-in-vm.sh with 4 nodes: every collective, checked element by element, over the verbs wire on that many
# nodes of that many ranks; 2 to 4 of 1 to 4 if none are named. Says how long each shape took; ends with the first that fails.
[ $# -gt 0 ] || set -- 2x1 2x2 2x3 2x4 3x1 3x2 3x3 3x4 4x1 4x2 4x3 4x4
for shape; do
  nodes=${shape%x*} ranks=${shape#*x} began=$(date +%s)
  if ! job.sh $nodes $ranks verbs bench all -b 200 -e 40000 -f 200 -n 1 -w 0 > /tmp/said 2>&1 \
    || ! grep -q '^# Out of bounds values : 0 OK' /tmp/said || ! grep -q 'transport=verbs' /tmp/said; then
    cat /tmp/said
    echo "matrix over $nodes nodes of $ranks ranks ... FAILED"
    exit 1
  fi
  echo "matrix over $nodes nodes of $ranks ranks ... ok ($(grep -cE '^ +[0-9]+ ' /tmp/said) lines, $(($(date +%s) - began)) s)"
done
echo "test result: ok. $# passed; 0 failed; shapes of the matrix"

#!/usr/bin/env bash
# Stands for ssh between two emulated hosts: HOST is an address of tests/hosts.sh, and the command runs in the network namespace that has it,
# under a host name of its own. Knows no MPI.
#
# usage: LAB=NAME agent.sh [-x] HOST COMMAND...
set -euo pipefail
[ "$1" != -x ] || shift
host=$1
shift
exec ip netns exec "$LAB${host##*.}" unshare --uts sh -c "hostname $LAB${host##*.}; $*"

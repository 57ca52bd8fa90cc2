#!/usr/bin/env bash
# Jobs that mpirun starts, on one host and over two, which are network namespaces with a virtual cable and host names of their own: hfr bench, which knows
# nothing of MPI, a program that calls hfreduce_mpi::connect, and one that is interposed. Needs root and ip(8) for two hosts. Leaves nothing behind.
#
# usage: mpi/tests/hosts.sh openmpi|mpich FOLDER_OF_BUILD HFR
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mpi=$1
folder=$(cd "$2" && pwd)
hfr=$3
library=$folder/lib/$mpi/libhfr_mpi.so
programs=$folder/tests/$mpi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 HFR_MPI_MIN_BYTES=0
# Between hosts neither MPI may use what they share here.
export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=cable OMPI_MCA_oob_tcp_if_include=cable UCX_TLS=tcp,self UCX_NET_DEVICES=cable
export LAB=hfrm$$-
log=$(mktemp)
passed=0
failed=0

leave() {
    rm -f "$log"
    ip netns del "${LAB}1" 2>/dev/null
    ip netns del "${LAB}2" 2>/dev/null
}
trap leave EXIT

# check NAME PATTERN COMMAND...: it ends well and says the pattern. Between hosts MPICH 4.0 may hang in MPI_Finalize, with or without hfreduce:
# there a program that has said all it should has passed.
ends=1
check() {
    local name=$1 pattern=$2 result=ok
    shift 2
    timeout -k 5 "$([ "$ends" = 1 ] && echo 60 || echo 12)" "$@" >"$log" 2>&1 || [ "$ends" = 0 ] || result=FAILED
    grep -Ezq -- "$pattern" "$log" || result=FAILED
    echo "test $mpi $name ... $result"
    if [ "$result" = ok ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        cat "$log"
    fi
}

bench=("$hfr" bench -b 4K -e 1M -f 256 -n 3)
# The variables above are for two hosts.
one=(env -u OMPI_MCA_btl -u OMPI_MCA_btl_tcp_if_include -u OMPI_MCA_oob_tcp_if_include -u UCX_TLS -u UCX_NET_DEVICES)
case $mpi in
openmpi)
    here_alone=(mpirun.openmpi --oversubscribe)
    variables=(-x HFR_MPI_MIN_BYTES)
    both=(mpirun.openmpi --oversubscribe --mca plm_rsh_agent "$here/agent.sh" --host 10.83.7.1:2,10.83.7.2:2 -x UCX_TLS "${variables[@]}")
    give() { printf '%s\n' -x "$1"; }
    ;;
mpich)
    here_alone=(mpirun.mpich)
    both=(mpirun.mpich -launcher rsh -launcher-exec "$here/agent.sh" -iface cable -hosts 10.83.7.1,10.83.7.2 -ppn 2)
    give() { printf '%s\n' -genv "${1%%=*}" "${1#*=}"; }
    ;;
esac

check "hfr bench on one host" 'transport=none.*nodes 1 .*Out of bounds values : 0 OK' "${one[@]}" "${here_alone[@]}" -n 8 "${bench[@]}"
check "hfreduce_mpi on one host" '4 ranks: 1.50 2.50 3.50' "${one[@]}" "${here_alone[@]}" -n 4 "$programs/average"

if [ "$(id -u)" != 0 ] || ! ip netns add "${LAB}1" 2>/dev/null; then
    echo "skipped: two hosts need root and ip(8)"
else
    ip netns add "${LAB}2"
    ip link add cable netns "${LAB}1" type veth peer name cable netns "${LAB}2"
    for end in 1 2; do
        ip -n "$LAB$end" addr add "10.83.7.$end/24" dev cable
        ip -n "$LAB$end" link set cable up
        ip -n "$LAB$end" link set lo up
    done
    # Until the cable is up.
    ip netns exec "${LAB}1" timeout 5 sh -c 'until grep -q 1 /sys/class/net/cable/carrier; do sleep 0.1; done'
    sleep 1
    inside=("$here/agent.sh" 10.83.7.1)
    mapfile -t place < <(give HFR_COMM_ID=10.83.7.1:29600)
    check "hfr bench on two hosts" 'transport=tcp.*nodes 2 .*Out of bounds values : 0 OK' "${inside[@]}" "${both[@]}" "${place[@]}" -n 4 "${bench[@]}"
    [ "$mpi" = openmpi ] || ends=0
    check "hfreduce_mpi on two hosts" '4 ranks: 1.50 2.50 3.50' "${inside[@]}" "${both[@]}" -n 4 "$programs/average"
    mapfile -t preload < <(give "LD_PRELOAD=$library"; give HFR_MPI_STATS=1)
    check "an MPI program on two hosts" 'MPI_Bcast +80 ' "${inside[@]}" "${both[@]}" "${preload[@]}" -n 4 "$programs/matrix" moves
fi

if [ "$failed" = 0 ] && [ "$passed" -gt 0 ]; then result=ok; else result=FAILED; fi
echo "test result: $result. $passed passed; $failed failed"
[ "$result" = ok ]

#!/usr/bin/env bash
# Runs the test programs under one MPI, without and with libhfr_mpi.so, on one node and on emulated ones, and looks at what the library says
# of its calls. Every job has a time after which it is ended. The last line is that of cargo test.
#
# usage: mpi/tests/run.sh openmpi|mpich FOLDER_OF_BUILD [PART_OF_A_NAME]
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mpi=$1
folder=$(cd "$2" && pwd)
only=${3:-}
library=$folder/lib/$mpi/libhfr_mpi.so
programs=$folder/tests/$mpi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_base_warn_component_unused=0
export HFR_MPI_STATS=1 HFR_MPI_MIN_BYTES=0
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

mkdir -p "$programs"
for name in matrix groups requests threads fail; do
    # MPICH's header says of its own constants that nothing fits into them.
    "mpicc.$mpi" -std=gnu11 -O2 -g -Wall -Wextra -Werror -Wno-unused-function -Wno-stringop-overflow -pthread "$here/$name.c" \
        -o "$programs/$name" || exit 1
done

# job RANKS LIBRARY PROGRAM...: what it says is in $log; its exit code. Variables go with the environment.
job() {
    local ranks=$1 library=$2
    shift 2
    case $mpi in
    openmpi)
        local variables
        mapfile -t variables < <(compgen -e | grep -E '^(HFR_|NODES$|ONLY$)' | sed 's/^/-x\n/')
        timeout -k 5 110 mpirun.openmpi --oversubscribe "${variables[@]}" -n "$ranks" "$here/rank.sh" "$library" "$@" ;;
    mpich) timeout -k 5 110 mpirun.mpich -n "$ranks" "$here/rank.sh" "$library" "$@" ;;
    esac >"$log" 2>&1
}

# verdict NAME CODE
verdict() {
    if [ "$2" = 0 ]; then
        echo "test $mpi $1 ... ok"
        passed=$((passed + 1))
    else
        echo "test $mpi $1 ... FAILED"
        cat "$log"
        failed=$((failed + 1))
    fi
}

wanted() { [[ $1 == *"$only"* ]]; }

# good NAME RANKS LIBRARY PROGRAM...: the job ends well, and says the patterns in the array says.
says=()
good() {
    local name=$1 code=0 pattern
    shift
    if wanted "$name"; then
        job "$@" || code=$?
        grep -q '^test result: ok' "$log" || code=1
        for pattern in "${says[@]}"; do
            grep -Eq -- "$pattern" "$log" || { echo "it does not say: $pattern"; code=1; }
        done
        verdict "$name" "$code"
    fi
    says=()
}

# bad NAME PATTERN RANKS LIBRARY PROGRAM...: the job fails and says the pattern.
bad() {
    local name=$1 pattern=$2 code=1
    shift 2
    wanted "$name" || return 0
    if ! job "$@" && grep -Eq -- "$pattern" "$log"; then code=0; fi
    verdict "$name" "$code"
}

# taken CALL OURS PASSED: the line of the table for this call, in calls of all ranks.
taken() { says+=("^hfr: $1 +$2 +[0-9]+ +$3 +[0-9]+"); }

# MPI alone: what the programs demand is what MPI gives.
good "alone: moves" 2 none "$programs/matrix" moves
good "alone: groups" 3 none "$programs/groups"
good "alone: requests" 2 none "$programs/requests"
good "alone: threads" 2 none "$programs/threads"

# MPICH spins while it waits: with more ranks than cores the many calls that stay with it take minutes.
ranks=4
[ "$mpi" = openmpi ] || ranks=2
taken MPI_Allreduce '[0-9]{4,}' '[0-9]+' && taken MPI_Reduce_scatter '[0-9]{4,}' '[0-9]+'
says+=('MPI_Reduce .* type:[0-9]+ operation:[0-9]+')
good "every type and operation" "$ranks" "$library" "$programs/matrix"
export NODES=2
taken MPI_Bcast 80 0 && taken MPI_Allgather 40 0 && taken MPI_Alltoall 40 0 && taken MPI_Barrier 20 0
good "moves on two nodes" 4 "$library" "$programs/matrix" moves
good "long reductions on two nodes" 4 "$library" "$programs/matrix" long
taken MPI_Allreduce '[0-9]{2}' '[0-9]+' && says+=('MPI_Allreduce .* communicator:[0-9]+')
good "communicators and types on two nodes" 4 "$library" "$programs/groups"
good "requests on two nodes" 3 "$library" "$programs/requests"
export NODES=one
taken MPI_Iallreduce 129 3
good "requests" 3 "$library" "$programs/requests"
taken MPI_Iallreduce 3 0
good "a communicator freed early" 3 "$library" "$programs/requests" orphan
taken MPI_Iallreduce 320 0
good "threads" 2 "$library" "$programs/threads"

# Communicators that stay with MPI.
export NODES=alternate
says+=('hfr: a communicator of 4 ranks stays with MPI: its ranks are not numbered node by node')
taken MPI_Bcast 0 80
good "ranks across the nodes" 4 "$library" "$programs/matrix" moves
export NODES=one

# Settings.
taken MPI_Bcast 8 12 && says+=('MPI_Bcast .* size:12$')
HFR_MPI_MIN_BYTES=65 good "small calls stay with MPI" 2 "$library" "$programs/matrix" moves
if wanted "off"; then
    code=0
    HFR_MPI=off job 2 "$library" "$programs/matrix" moves || code=$?
    grep -q '^hfr:' "$log" && code=1
    verdict "off" "$code"
fi
HFR_MPI=of bad "a setting that is none" 'HFR_MPI=of is neither on nor off' 2 "$library" "$programs/matrix" moves
HFR_MPI_MIN_BYTES=1k bad "a number that is none" 'HFR_MPI_MIN_BYTES=1k is no number' 2 "$library" "$programs/matrix" moves

# Failures.
says+=('hfr: MPI_Iallreduce: .*rank 1 calls all_reduce')
good "failures are told" 3 "$library" "$programs/fail"
bad "failures end the job" 'MPI_Allreduce: .*rank 1 calls all_reduce' 2 "$library" "$programs/fail" fatal
other=$folder/lib/$([ "$mpi" = openmpi ] && echo mpich || echo openmpi)/libhfr_mpi.so
if [ -e "$other" ]; then
    bad "the library of another MPI" 'was built for .*preload the one built for that' 2 "$other" "$programs/matrix" moves
fi
# It takes as long as the library's patience.
if [ "$mpi" = openmpi ] && wanted "not on all ranks"; then
    code=1
    ONLY=1 job 2 "$library" timeout 13 "$programs/matrix" moves || true
    grep -q 'still waiting for other ranks in MPI_Init: start all of them with' "$log" && code=0
    verdict "not on all ranks" "$code"
fi

if [ "$failed" = 0 ] && [ "$passed" -gt 0 ]; then result=ok; else result=FAILED; fi
echo "test result: $result. $passed passed; $failed failed"
[ "$result" = ok ]

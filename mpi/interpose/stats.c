/*
 * Counts calls and bytes, taken over and not. Knows neither communicators nor buffers. Invariant: every call of a function that is
 * interposed is counted once, under one reason.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpose.h"

static atomic_ullong calls[CALLS][REASONS];
static atomic_ullong moved[CALLS][2];

static const char* const NAMES[CALLS] = {"MPI_Allreduce",      "MPI_Reduce",   "MPI_Bcast",   "MPI_Allgather", "MPI_Reduce_scatter_block",
                                         "MPI_Reduce_scatter", "MPI_Alltoall", "MPI_Barrier", "MPI_Iallreduce"};
static const char* const REASON_NAMES[REASONS] = {"", "type", "operation", "communicator", "size"};

const char* hfr_call_name(Call call) { return NAMES[call]; }

void hfr_count(Call call, Reason reason, size_t bytes) {
  atomic_fetch_add_explicit(&calls[call][reason], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&moved[call][reason != OURS], bytes, memory_order_relaxed);
}

/* One line: a call that was made at all. */
static void line(Call call, const unsigned long long* count, const unsigned long long* bytes) {
  unsigned long long passed = 0;
  char why[160] = "";
  int reason;
  for (reason = OURS + 1; reason < REASONS; reason++) {
    size_t at = strlen(why);
    passed += count[reason];
    if (count[reason] > 0) snprintf(why + at, sizeof why - at, " %s:%llu", REASON_NAMES[reason], count[reason]);
  }
  if (count[OURS] + passed == 0) return;
  fprintf(stderr, "hfr: %-26s %10llu %16llu %10llu %16llu %s\n", NAMES[call], count[OURS], bytes[0], passed, bytes[1], why);
}

void hfr_print_stats(void) {
  const char* wanted = getenv("HFR_MPI_STATS");
  unsigned long long mine[CALLS * (REASONS + 2)], all[CALLS * (REASONS + 2)];
  int rank = 0, size = 0, call, i;
  memset(all, 0, sizeof all);
  for (call = 0; call < CALLS; call++) {
    for (i = 0; i < REASONS; i++) mine[call * (REASONS + 2) + i] = atomic_load(&calls[call][i]);
    for (i = 0; i < 2; i++) mine[call * (REASONS + 2) + REASONS + i] = atomic_load(&moved[call][i]);
  }
  PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
  PMPI_Comm_size(MPI_COMM_WORLD, &size);
  PMPI_Reduce(mine, all, CALLS * (REASONS + 2), MPI_UNSIGNED_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
  if (rank != 0 || wanted == NULL || strcmp(wanted, "1") != 0) return;
  fprintf(stderr, "hfr: calls of all %d ranks    taken over            bytes     to MPI            bytes  why\n", size);
  for (call = 0; call < CALLS; call++) line((Call)call, &all[call * (REASONS + 2)], &all[call * (REASONS + 2) + REASONS]);
}

/*
 * What the test programs share: they are plain MPI programs that know nothing of hfreduce. Every check runs on every rank; the first that
 * fails ends the job. Invariant: a program says "test result: ok." only if every case came to its end on every rank.
 */
#ifndef HFR_MPI_CHECK_H_
#define HFR_MPI_CHECK_H_

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int rank, size, cases;

#define CHECK(what, ...)                                                    \
  do {                                                                      \
    if (!(what)) {                                                          \
      fprintf(stderr, "%s:%d: rank %d: %s: ", __FILE__, __LINE__, rank, #what); \
      fprintf(stderr, __VA_ARGS__);                                         \
      fprintf(stderr, "\n");                                                \
      fflush(NULL);                                                         \
      MPI_Abort(MPI_COMM_WORLD, 1);                                         \
    }                                                                       \
  } while (0)

#define OK(call)                                                                  \
  do {                                                                            \
    int code_ = (call);                                                           \
    char text_[MPI_MAX_ERROR_STRING] = "";                                        \
    int length_ = 0;                                                              \
    if (code_ != MPI_SUCCESS) MPI_Error_string(code_, text_, &length_);           \
    CHECK(code_ == MPI_SUCCESS, "%s", text_);                                     \
  } while (0)

/* Runs a case if the program's first argument is not there or part of the name. */
#define CASE(name)                                                                  \
  do {                                                                              \
    if (argc < 2 || strstr(#name, argv[1]) != NULL) {                               \
      name();                                                                       \
      PMPI_Barrier(MPI_COMM_WORLD);                                                 \
      if (rank == 0) printf("test %s (%d ranks) ... ok\n", #name, size);            \
      cases++;                                                                      \
    }                                                                               \
  } while (0)

static void begin(int* argc, char*** argv, int level) {
  int provided;
  alarm(100);
  if (level == MPI_THREAD_SINGLE) {
    OK(MPI_Init(argc, argv));
  } else {
    OK(MPI_Init_thread(argc, argv, level, &provided));
    CHECK(provided >= level, "this MPI gives thread level %d of %d", provided, level);
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
}

static int finish(void) {
  int first = rank == 0;
  OK(MPI_Finalize());
  if (first) printf("test result: %s. %d passed; 0 failed\n", cases > 0 ? "ok" : "FAILED", cases);
  return cases == 0;
}

#endif

/*
 * Several threads of each rank in collectives at a time, each on a communicator of its own, with MPI_THREAD_MULTIPLE.
 */
#include <pthread.h>

#include "check.h"

enum { THREADS = 4, TURNS = 40, COUNT = 3000 };
static MPI_Comm comms[THREADS];

static void* run(void* argument) {
  int own = *(int*)argument, turn, i, ranks = size * (size - 1) / 2, word = -1;
  static int buffers[THREADS][COUNT], started[THREADS][COUNT];
  int *values = buffers[own], *later = started[own];
  MPI_Request request;
  for (turn = 0; turn < TURNS; turn++) {
    for (i = 0; i < COUNT; i++) values[i] = later[i] = rank + own * 100 + turn + i + 1;
    OK(MPI_Allreduce(MPI_IN_PLACE, values, COUNT, MPI_INT, MPI_SUM, comms[own]));
    for (i = 0; i < COUNT; i++) CHECK(values[i] == ranks + size * (own * 100 + turn + i + 1), "thread %d turn %d: %d", own, turn, values[i]);
    OK(MPI_Iallreduce(MPI_IN_PLACE, later, COUNT, MPI_INT, MPI_MAX, comms[own], &request));
    word = rank == turn % size ? own * 1000 + turn : -1;
    OK(MPI_Bcast(&word, 1, MPI_INT, turn % size, comms[own]));
    CHECK(word == own * 1000 + turn, "thread %d turn %d got word %d", own, turn, word);
    OK(MPI_Sendrecv_replace(&word, 1, MPI_INT, (rank + 1) % size, own, (rank + size - 1) % size, own, comms[own], MPI_STATUS_IGNORE));
    OK(MPI_Wait(&request, MPI_STATUS_IGNORE));
    for (i = 0; i < COUNT; i++) CHECK(later[i] == size - 1 + own * 100 + turn + i + 1, "thread %d turn %d: %d", own, turn, later[i]);
  }
  return NULL;
}

static void side_by_side(void) {
  pthread_t threads[THREADS];
  int numbers[THREADS], i;
  for (i = 0; i < THREADS; i++) OK(MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]));
  for (i = 0; i < THREADS; i++) {
    numbers[i] = i;
    CHECK(pthread_create(&threads[i], NULL, run, &numbers[i]) == 0, "no thread");
  }
  for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (i = 0; i < THREADS; i++) OK(MPI_Comm_free(&comms[i]));
}

int main(int argc, char** argv) {
  begin(&argc, &argv, MPI_THREAD_MULTIPLE);
  CASE(side_by_side);
  return finish();
}

/*
 * MPI_Iallreduce with every function that takes its request, beside messages of MPI; and messages that need MPI's progress while a rank
 * waits in a collective. Each rank starts its calls in the order that MPI demands, and waits in others.
 */
#include "check.h"

enum { COUNT = 20000, CALLS = 6 };
static int buffers[CALLS][COUNT];

static void start(int call, MPI_Comm comm, MPI_Request* request) {
  int i;
  for (i = 0; i < COUNT; i++) buffers[call][i] = rank + call + i + 1;
  OK(MPI_Iallreduce(MPI_IN_PLACE, buffers[call], COUNT, MPI_INT, MPI_SUM, comm, request));
}

static void check_sum(int call) {
  int i, ranks = size * (size - 1) / 2;
  for (i = 0; i < COUNT; i++) CHECK(buffers[call][i] == ranks + size * (call + i + 1), "call %d element %d is %d", call, i, buffers[call][i]);
}

static void start_all(MPI_Request* requests) {
  int call;
  for (call = 0; call < CALLS; call++) start(call, MPI_COMM_WORLD, &requests[call]);
}

static void waits(void) {
  MPI_Request requests[CALLS];
  MPI_Status statuses[CALLS];
  int call, flag = 0, index, number, indices[CALLS], left = CALLS, seen[CALLS] = {0}, i;
  OK(MPI_Barrier(MPI_COMM_WORLD));
  start_all(requests);
  /* The last first. */
  for (call = CALLS - 1; call >= 0; call--) {
    OK(MPI_Wait(&requests[call], &statuses[call]));
    CHECK(requests[call] == MPI_REQUEST_NULL, "the request is still there");
    check_sum(call);
  }
  start_all(requests);
  OK(MPI_Waitall(CALLS, requests, statuses));
  for (call = 0; call < CALLS; call++) check_sum(call);
  start_all(requests);
  for (call = 0; call < CALLS; call++) {
    OK(MPI_Waitany(CALLS, requests, &index, MPI_STATUS_IGNORE));
    CHECK(index >= 0 && index < CALLS && !seen[index]++, "index %d", index);
    check_sum(index);
  }
  OK(MPI_Waitany(CALLS, requests, &index, MPI_STATUS_IGNORE));
  CHECK(index == MPI_UNDEFINED, "nothing is open, but index %d ended", index);
  start_all(requests);
  while (left > 0) {
    OK(MPI_Waitsome(CALLS, requests, &number, indices, MPI_STATUSES_IGNORE));
    CHECK(number > 0 && number <= left, "%d of %d ended", number, left);
    for (i = 0; i < number; i++) check_sum(indices[i]);
    left -= number;
  }
  start_all(requests);
  while (!flag) OK(MPI_Testall(CALLS, requests, &flag, MPI_STATUSES_IGNORE));
  for (call = 0; call < CALLS; call++) check_sum(call);
}

static void tests(void) {
  MPI_Request requests[CALLS];
  int flag = 0, index, left = CALLS, number, indices[CALLS], i;
  OK(MPI_Barrier(MPI_COMM_WORLD));
  start_all(requests);
  while (!flag) OK(MPI_Request_get_status(requests[2], &flag, MPI_STATUS_IGNORE));
  CHECK(requests[2] != MPI_REQUEST_NULL, "asking freed the request");
  check_sum(2);
  for (flag = 0; !flag;) OK(MPI_Test(&requests[2], &flag, MPI_STATUS_IGNORE));
  for (left = CALLS - 1; left > 3;) {
    OK(MPI_Testany(CALLS, requests, &index, &flag, MPI_STATUS_IGNORE));
    if (flag) check_sum(index);
    left -= flag;
  }
  while (left > 0) {
    OK(MPI_Testsome(CALLS, requests, &number, indices, MPI_STATUSES_IGNORE));
    for (i = 0; i < number; i++) check_sum(indices[i]);
    left -= number;
  }
}

/* A blocking call goes behind those that were started, on all ranks. */
static void mixed(void) {
  MPI_Request requests[CALLS + 2];
  int token[2] = {rank, -1}, sum = 0, one = rank + 1, call;
  OK(MPI_Barrier(MPI_COMM_WORLD));
  start_all(requests);
  OK(MPI_Irecv(&token[1], 1, MPI_INT, (rank + size - 1) % size, 9, MPI_COMM_WORLD, &requests[CALLS]));
  OK(MPI_Isend(&token[0], 1, MPI_INT, (rank + 1) % size, 9, MPI_COMM_WORLD, &requests[CALLS + 1]));
  OK(MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD));
  CHECK(sum == size * (size + 1) / 2, "the sum is %d", sum);
  OK(MPI_Waitall(CALLS + 2, requests, MPI_STATUSES_IGNORE));
  CHECK(token[1] == (rank + size - 1) % size, "the token is %d", token[1]);
  for (call = 0; call < CALLS; call++) check_sum(call);
}

/* It is local: rank 1 starts its call only when rank 0 has returned from its own, on a communicator that nobody has used and on one that is. */
static void local(void) {
  MPI_Comm comm;
  MPI_Request request;
  int turn, word = 5;
  OK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  for (turn = 0; turn < 2; turn++) {
    if (rank == 1) OK(MPI_Recv(&word, 1, MPI_INT, 0, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    start(turn, comm, &request);
    if (rank == 0) OK(MPI_Send(&word, 1, MPI_INT, 1, 3, MPI_COMM_WORLD));
    OK(MPI_Wait(&request, MPI_STATUS_IGNORE));
    check_sum(turn);
    OK(MPI_Barrier(comm));
  }
  OK(MPI_Comm_free(&comm));
}

/* The communicator is freed while its call is under way. */
static void orphan(void) {
  MPI_Comm comm;
  MPI_Request request;
  OK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  OK(MPI_Barrier(comm));
  start(3, comm, &request);
  OK(MPI_Comm_free(&comm));
  OK(MPI_Wait(&request, MPI_STATUS_IGNORE));
  check_sum(3);
}

/* Rank 0 has begun to send much and waits in a collective; rank 1 comes to the collective when it has all. */
static void progress(void) {
  enum { LONG = 8 << 20 };
  MPI_Request request = MPI_REQUEST_NULL;
  char* much = malloc(LONG);
  int turn, i;
  for (turn = 0; turn < 3; turn++) {
    memset(much, rank == 0 ? turn + 1 : 0x5a, LONG);
    OK(MPI_Barrier(MPI_COMM_WORLD));
    if (rank == 0) OK(MPI_Isend(much, LONG, MPI_BYTE, 1, 4, MPI_COMM_WORLD, &request));
    if (rank == 1) OK(MPI_Recv(much, LONG, MPI_BYTE, 0, 4, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    if (turn == 0) OK(MPI_Barrier(MPI_COMM_WORLD));
    if (turn > 0) {
      int one = 1, sum = 0;
      OK(MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD));
      CHECK(sum == size, "the sum is %d", sum);
    }
    if (rank == 0) OK(MPI_Wait(&request, MPI_STATUS_IGNORE));
    for (i = 0; rank == 1 && i < LONG; i++) CHECK(much[i] == turn + 1, "byte %d is %d", i, much[i]);
  }
  free(much);
}

int main(int argc, char** argv) {
  begin(&argc, &argv, MPI_THREAD_SINGLE);
  CHECK(size >= 2, "this needs 2 ranks");
  CASE(waits);
  CASE(tests);
  CASE(mixed);
  CASE(local);
  /* Open MPI 4.1 dies of this one when it is alone. */
  if (argc > 1) CASE(orphan);
  CASE(progress);
  return finish();
}

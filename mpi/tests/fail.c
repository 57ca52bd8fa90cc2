/*
 * Calls that fail: ranks bring different counts, which MPI does not allow and hfreduce tells. Only to be run with libhfr_mpi.so: MPI by itself
 * may do anything here. The argument says what the communicator's error handler is to do.
 */
#include "check.h"

/* An error of a class that MPI does not have by itself, in hfreduce's words. */
static void told(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, class = MPI_SUCCESS;
  CHECK(code != MPI_SUCCESS, "the call came to an end");
  OK(MPI_Error_string(code, text, &length));
  OK(MPI_Error_class(code, &class));
  CHECK(strstr(text, "all_reduce") != NULL && class >= MPI_ERR_LASTCODE, "class %d: %s", class, text);
}

static void different_counts(void) {
  MPI_Comm comm;
  int values[2] = {rank, 1}, code;
  OK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  OK(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  OK(MPI_Barrier(comm));
  code = MPI_Allreduce(MPI_IN_PLACE, values, rank == 1 ? 2 : 1, MPI_INT, MPI_SUM, comm);
  told(code);
  CHECK(MPI_Barrier(comm) == code, "a later call fails otherwise");
  OK(MPI_Comm_free(&comm));
  /* Other communicators are as good as before. */
  values[0] = rank + 1;
  OK(MPI_Allreduce(MPI_IN_PLACE, values, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD));
  CHECK(values[0] == size * (size + 1) / 2, "the sum is %d", values[0]);
}

static void different_counts_later(void) {
  MPI_Comm comm;
  MPI_Request request;
  int values[2] = {rank, 1};
  OK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  OK(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  OK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  OK(MPI_Barrier(comm));
  OK(MPI_Iallreduce(MPI_IN_PLACE, values, rank == 1 ? 2 : 1, MPI_INT, MPI_SUM, comm, &request));
  told(MPI_Wait(&request, MPI_STATUS_IGNORE));
  OK(MPI_Comm_free(&comm));
}

static void fatal(void) {
  int values[2] = {rank, 1};
  MPI_Allreduce(MPI_IN_PLACE, values, rank == 1 ? 2 : 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  CHECK(0, "the error was not fatal");
}

int main(int argc, char** argv) {
  begin(&argc, &argv, MPI_THREAD_SINGLE);
  if (argc > 1 && strcmp(argv[1], "fatal") == 0) fatal();
  CASE(different_counts);
  CASE(different_counts_later);
  return finish();
}

/*
 * How long collectives take, in microseconds, by bytes: a plain MPI program, to be run with and without libhfr_mpi.so. Each figure is the
 * mean over the calls of the slowest rank. It checks one element of each result and no more: that is what the tests are for.
 *
 * usage: mpirun -n RANKS speed [allreduce|bcast|allgather|alltoall|barrier]
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank, size;
static float *from, *to;

static void call(const char* what, int count) {
  if (strcmp(what, "allreduce") == 0) MPI_Allreduce(from, to, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  if (strcmp(what, "bcast") == 0) MPI_Bcast(to, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
  if (strcmp(what, "allgather") == 0) MPI_Allgather(from, count / size, MPI_FLOAT, to, count / size, MPI_FLOAT, MPI_COMM_WORLD);
  if (strcmp(what, "alltoall") == 0) MPI_Alltoall(from, count / size, MPI_FLOAT, to, count / size, MPI_FLOAT, MPI_COMM_WORLD);
  if (strcmp(what, "barrier") == 0) MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "allreduce";
  int largest = 4 << 20, count, i;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  from = malloc((size_t)largest * sizeof *from);
  to = malloc((size_t)largest * sizeof *to);
  if (from == NULL || to == NULL) MPI_Abort(MPI_COMM_WORLD, 1);
  for (i = 0; i < largest; i++) from[i] = to[i] = (float)(i % 7 + 1);
  if (rank == 0) printf("# %s, %d ranks\n#     bytes        us\n", what, size);
  for (count = size; count <= largest; count *= 4) {
    int calls = count <= 1024 ? 1000 : count <= 65536 ? 200 : 20;
    double begin, mine, slowest;
    for (i = 0; i < calls / 10 + 1; i++) call(what, count);
    begin = MPI_Wtime();
    for (i = 0; i < calls; i++) call(what, count);
    mine = (MPI_Wtime() - begin) / calls * 1e6;
    MPI_Reduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (strcmp(what, "allreduce") == 0 && to[count - 1] != from[count - 1] * (float)size) MPI_Abort(MPI_COMM_WORLD, 2);
    if (rank == 0) printf("%11d %9.1f\n", count * 4, slowest);
    if (strcmp(what, "barrier") == 0) break;
  }
  MPI_Finalize();
  return 0;
}

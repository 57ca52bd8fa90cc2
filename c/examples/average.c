/* average.c: averages a gradient over the ranks of a job. Knows only the launcher's environment. Every rank ends with the same numbers. */
#include <hfreduce.h>
#include <stdio.h>
#include <stdlib.h>

static void check(hfrResult_t result) {
  if (result == hfrSuccess) return;
  fprintf(stderr, "%s: %s\n", hfrGetErrorString(result), hfrGetLastError(NULL));
  exit(1);
}

int main(void) {
  enum { COUNT = 1 << 20 };
  hfrComm_t comm;
  int rank, ranks, i;
  float* gradient;

  check(hfrCommInitEnv(&comm)); /* or hfrCommInitRank() with an id that rank 0 made */
  check(hfrCommUserRank(comm, &rank));
  check(hfrCommCount(comm, &ranks));

  /* Memory that all ranks of the node see: the call copies nothing in or out. Any other memory will do, too. */
  check(hfrMemAlloc((void**)&gradient, COUNT * sizeof(float)));
  for (i = 0; i < COUNT; i++) gradient[i] = (float)(rank + i % 3);

  check(hfrAllReduce(gradient, gradient, COUNT, hfrFloat, hfrAvg, comm, NULL));

  if (rank == 0) printf("%d ranks: %.2f %.2f %.2f\n", ranks, gradient[0], gradient[1], gradient[2]);
  check(hfrMemFree(gradient));
  check(hfrCommDestroy(comm));
  return 0;
}

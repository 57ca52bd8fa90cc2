/*
 * perf.c: what nccl-tests do, on a device where several ranks are: communicators by process, by thread, by group in one thread and all at once; every
 * collective, type and operation, in place and out of place; results compared on the host. Knows of the library what NCCL's
 * documentation says. Invariant: inputs are put on the stream behind other work and no call is waited for in between, so that what is not
 * ordered is wrong.
 */
#define _GNU_SOURCE
#include "ranks_of_nccl.h"

#include <pthread.h>

enum { RANKS = 4, MOST = 4, COUNT = 70001 };

/* One rank of a process, as nccl-tests have it. */
typedef struct {
  int rank;
  int ranks;
  ncclComm_t comm;
  CUstream stream;
  char* from;
  char* to;
  void* host;
} Own;

static void open_own(Own* own, int rank, int ranks, ncclComm_t comm, size_t bytes) {
  own->rank = rank;
  own->ranks = ranks;
  own->comm = comm;
  own->stream = new_stream();
  own->from = (char*)on_device(bytes);
  own->to = (char*)on_device(bytes);
}

static void close_own(Own* own) {
  free_on_device(own->from);
  free_on_device(own->to);
  CUDA(cuStreamDestroy_v2(own->stream));
}

/* What op makes of element i of all ranks. */
static double expected(int op, int ranks, size_t i) {
  double value = given(0, i);
  int rank;
  for (rank = 1; rank < ranks; rank++) {
    double other = given(rank, i);
    if (op == ncclSum || op == ncclAvg || op >= ncclNumOps) value += other;
    if (op == ncclProd) value *= other;
    if (op == ncclMax && other > value) value = other;
    if (op == ncclMin && other < value) value = other;
  }
  return op == ncclAvg ? value / ranks : op >= ncclNumOps ? 2 * value : value;
}

/* An all-reduce of every rank of this process: all on their streams, before any of them is waited for. */
static void all_reduce(Own* owns, int many, int type, int op, int in_place, size_t count) {
  int i;
  for (i = 0; i < many; i++) owns[i].host = give_later(owns[i].from, type, owns[i].rank, 0, count, owns[i].stream);
  if (many > 1) OK(ncclGroupStart());
  for (i = 0; i < many; i++) {
    Own* own = &owns[i];
    ncclRedOp_t of = (ncclRedOp_t)op;
    uint64_t two = encoded(type, 2);
    if (op >= ncclNumOps) OK(ncclRedOpCreatePreMulSum(&of, &two, (ncclDataType_t)type, ncclScalarHostImmediate, own->comm));
    OK(ncclAllReduce(own->from, in_place ? own->from : own->to, count, (ncclDataType_t)type, of, own->comm, own->stream));
    if (op >= ncclNumOps) OK(ncclRedOpDestroy(of, own->comm));
  }
  if (many > 1) OK(ncclGroupEnd());
  for (i = 0; i < many; i++) {
    Own* own = &owns[i];
    char* got;
    size_t e;
    ncclResult_t error = ncclSuccess;
    CUDA(cuStreamSynchronize(own->stream));
    OK(ncclCommGetAsyncError(own->comm, &error));
    CHECK(error == ncclSuccess, "%s", ncclGetLastError(own->comm));
    CUDA(cuMemFreeHost(own->host));
    got = (char*)fetched(in_place ? own->from : own->to, count * (size_t)LAYOUTS[type].bytes);
    for (e = 0; e < count; e++) {
      double right = expected(op, own->ranks, e);
      if (LAYOUTS[type].exponent == 0) right = (double)(int64_t)right;
      CHECK(is_number(type, got, e, right), "type %d, op %d, in place %d: element %zu of %zu of rank %d is not %g", type, op, in_place, e,
            count, own->rank, right);
    }
    free(got);
  }
}

/* Results of which all types hold every bit, with two ranks. */
static void all_types_and_ops(Own* owns, int many) {
  int type, op;
  for (type = 0; type < ncclNumTypes; type++) {
    for (op = 0; op <= ncclNumOps; op++) {
      all_reduce(owns, many, type, op, op % 2, (size_t)(1 + 997 * (type + op)));
    }
  }
  all_reduce(owns, many, ncclFloat32, ncclSum, 0, COUNT);
  all_reduce(owns, many, ncclFloat32, ncclSum, 1, COUNT);
}

static void types(Rank* self) {
  Own own;
  open_own(&own, self->rank, self->ranks, self->comm, COUNT * 8);
  all_types_and_ops(&own, 1);
  close_own(&own);
}

/* The elements of `got` from first on are what rank gives from element `of` on. */
static void is_given(const void* got, size_t first, size_t count, int rank, size_t of) {
  size_t e;
  for (e = 0; e < count; e++) {
    CHECK(is_number(ncclFloat32, got, first + e, given(rank, of + e)), "element %zu is not element %zu of rank %d", first + e, of + e, rank);
  }
}

static void* finished(Own* own, const void* at, size_t count) {
  CUDA(cuStreamSynchronize(own->stream));
  CUDA(cuMemFreeHost(own->host));
  return fetched(at, count * 4);
}

static void blocks(Own* own) {
  enum { BLOCK = 3001 };
  int n = own->ranks, me = own->rank, root = 1, r;
  size_t all = (size_t)n * BLOCK, e;
  float *got, *in;
  own->host = give_later(own->from, ncclFloat32, me, 0, all, own->stream);
  OK(ncclReduceScatter(own->from, own->to, BLOCK, ncclFloat32, ncclSum, own->comm, own->stream));
  got = (float*)finished(own, own->to, BLOCK);
  for (e = 0; e < BLOCK; e++) CHECK(got[e] == expected(ncclSum, n, (size_t)me * BLOCK + e), "element %zu is %f", e, got[e]);
  free(got);

  in = (float*)own->to + (size_t)me * BLOCK; /* in place */
  own->host = give_later(in, ncclFloat32, me, 0, BLOCK, own->stream);
  OK(ncclAllGather(in, own->to, BLOCK, ncclFloat32, own->comm, own->stream));
  got = (float*)finished(own, own->to, all);
  for (r = 0; r < n; r++) is_given(got, (size_t)r * BLOCK, BLOCK, r, 0);
  free(got);

  own->host = give_later(own->from, ncclFloat32, me, 0, all, own->stream);
  OK(ncclAlltoAll(own->from, own->to, BLOCK, ncclFloat32, own->comm, own->stream));
  got = (float*)finished(own, own->to, all);
  for (r = 0; r < n; r++) is_given(got, (size_t)r * BLOCK, BLOCK, r, (size_t)me * BLOCK);
  free(got);

  own->host = give_later(own->from, ncclFloat32, me, 0, BLOCK, own->stream);
  OK(ncclGather(own->from, own->to, BLOCK, ncclFloat32, root, own->comm, own->stream));
  got = (float*)finished(own, own->to, all);
  for (r = 0; me == root && r < n; r++) is_given(got, (size_t)r * BLOCK, BLOCK, r, 0);
  free(got);

  own->host = give_later(own->from, ncclFloat32, me, 0, all, own->stream);
  OK(ncclScatter(own->from, own->to, BLOCK, ncclFloat32, root, own->comm, own->stream));
  got = (float*)finished(own, own->to, BLOCK);
  is_given(got, 0, BLOCK, root, (size_t)me * BLOCK);
  free(got);
}

static void roots(Own* own) {
  int n = own->ranks, me = own->rank, root = 2;
  size_t e;
  float* got;
  own->host = give_later(own->from, ncclFloat32, me, 0, COUNT, own->stream);
  OK(ncclReduce(own->from, me == root ? own->to : NULL, COUNT, ncclFloat32, ncclMax, root, own->comm, own->stream));
  OK(ncclBroadcast(own->from, own->to, COUNT - 1, ncclFloat32, 0, own->comm, own->stream));
  OK(ncclBcast(own->from, COUNT - 2, ncclFloat32, 3, own->comm, own->stream));
  got = (float*)finished(own, own->from, COUNT);
  is_given(got, 0, COUNT - 2, 3, 0);
  is_given(got, COUNT - 2, 2, me, COUNT - 2);
  free(got);
  got = (float*)fetched(own->to, COUNT * 4);
  is_given(got, 0, COUNT - 1, 0, 0);
  CHECK(me != root || got[COUNT - 1] == expected(ncclMax, n, COUNT - 1), "the last is %f", got[COUNT - 1]);
  free(got);
  /* An operation whose factor is on the device, and comes there behind other work of the stream. */
  {
    ncclRedOp_t op;
    float* factor = (float*)on_device(4);
    static const float TWO = 2;
    OK(ncclRedOpCreatePreMulSum(&op, factor, ncclFloat32, ncclScalarDevice, own->comm));
    own->host = give_later(own->from, ncclFloat32, me, 0, COUNT, own->stream);
    CUDA(cuMemcpyHtoDAsync_v2(place(factor), &TWO, 4, own->stream));
    OK(ncclAllReduce(own->from, own->to, COUNT, ncclFloat32, op, own->comm, own->stream));
    got = (float*)finished(own, own->to, COUNT);
    for (e = 0; e < COUNT; e++) CHECK(got[e] == expected(ncclNumOps, n, e), "element %zu is %f", e, got[e]);
    free(got);
    OK(ncclRedOpDestroy(op, own->comm));
    free_on_device(factor);
  }
}

/* A ring, with a message to the own rank beside it, as sendrecv_perf and alltoall_perf have it. */
static void ring(Own* own) {
  int n = own->ranks, me = own->rank, next = (me + 1) % n, before = (me + n - 1) % n;
  float* got;
  own->host = give_later(own->from, ncclFloat32, me, 0, COUNT, own->stream);
  OK(ncclGroupStart());
  OK(ncclSend(own->from, COUNT - 9, ncclFloat32, next, own->comm, own->stream));
  OK(ncclRecv(own->to, COUNT - 9, ncclFloat32, before, own->comm, own->stream));
  OK(ncclSend(own->from, 9, ncclFloat32, me, own->comm, own->stream));
  OK(ncclRecv((float*)own->to + COUNT - 9, 9, ncclFloat32, me, own->comm, own->stream));
  OK(ncclGroupEnd());
  got = (float*)finished(own, own->to, COUNT);
  is_given(got, 0, COUNT - 9, before, 0);
  is_given(got, COUNT - 9, 9, me, 0);
  free(got);
}

static void shapes(Rank* self) {
  Own own;
  open_own(&own, self->rank, self->ranks, self->comm, COUNT * 4);
  blocks(&own);
  roots(&own);
  ring(&own);
  close_own(&own);
}

/* nccl-tests with -g: one thread, which has all ranks. */
static void one_thread(Rank* self) {
  ncclComm_t comms[MOST];
  Own owns[2];
  int i;
  (void)self;
  use_device(0);
  OK(ncclGroupStart());
  for (i = 0; i < 2; i++) OK(ncclCommInitRank(&comms[i], 2, self->id, i));
  OK(ncclGroupEnd());
  for (i = 0; i < 2; i++) open_own(&owns[i], i, 2, comms[i], COUNT * 8);
  all_types_and_ops(owns, 2);
  for (i = 0; i < 2; i++) close_own(&owns[i]);
  for (i = 0; i < 2; i++) OK(ncclCommDestroy(comms[i]));
}

/* Several ranks that share even their stream, and the legacy default stream. */
static void init_all(Rank* self) {
  static const int DEVICES[3] = {0, 0, 0};
  ncclComm_t comms[3];
  Own owns[3];
  CUstream mine[3], shared;
  int i, device, rank, count;
  (void)self;
  use_device(0);
  OK(ncclCommInitAll(comms, 3, DEVICES));
  for (i = 0; i < 3; i++) {
    OK(ncclCommCuDevice(comms[i], &device));
    OK(ncclCommUserRank(comms[i], &rank));
    OK(ncclCommCount(comms[i], &count));
    CHECK(device == 0 && rank == i && count == 3, "rank %d of %d on device %d", rank, count, device);
    open_own(&owns[i], i, 3, comms[i], COUNT * 4);
    mine[i] = owns[i].stream;
  }
  shared = new_stream();
  for (i = 0; i < 3; i++) owns[i].stream = shared;
  all_reduce(owns, 3, ncclInt32, ncclSum, 1, COUNT);
  for (i = 0; i < 3; i++) owns[i].stream = NULL;
  all_reduce(owns, 3, ncclInt32, ncclMax, 0, COUNT);
  for (i = 0; i < 3; i++) owns[i].stream = mine[i];
  for (i = 0; i < 3; i++) close_own(&owns[i]);
  for (i = 0; i < 3; i++) OK(ncclCommDestroy(comms[i]));
  CUDA(cuStreamDestroy_v2(shared));
}

typedef struct {
  ncclUniqueId id;
  int rank;
} Threaded;

static void* one_of_threads(void* given) {
  Threaded* thread = (Threaded*)given;
  ncclComm_t comm;
  Own own;
  use_device(0);
  OK(ncclCommInitRank(&comm, 3, thread->id, thread->rank));
  open_own(&own, thread->rank, 3, comm, COUNT * 4);
  all_reduce(&own, 1, ncclInt32, ncclSum, 0, COUNT);
  ring(&own);
  close_own(&own);
  OK(ncclCommDestroy(comm));
  return NULL;
}

/* nccl-tests with -t. */
static void threads(Rank* self) {
  pthread_t running[3];
  Threaded given[3];
  int i;
  for (i = 0; i < 3; i++) {
    given[i].id = self->id;
    given[i].rank = i;
    CHECK(pthread_create(&running[i], NULL, one_of_threads, &given[i]) == 0, "no thread");
  }
  for (i = 0; i < 3; i++) pthread_join(running[i], NULL);
}

int main(int argc, char** argv) {
  static const Case CASES[] = {
      {"types", 2, 1, 0, -1, types},         {"types", 2, 2, 0, -1, types},       {"shapes", RANKS, 1, 0, -1, shapes},
      {"shapes", RANKS, 2, 0, -1, shapes},   {"one_thread", 1, 1, 1, -1, one_thread}, {"init_all", 1, 1, 1, -1, init_all},
      {"threads", 1, 1, 1, -1, threads},
  };
  return run_cases(CASES, sizeof CASES / sizeof CASES[0], argc > 1 ? argv[1] : NULL);
}

/*
 * streams.c: calls on CUDA streams, over the stand-in for the driver: ranks with device memory beside ranks with host memory, groups over several streams
 * and communicators, the reducer, and a device that breaks. Knows of the library what the header says. Invariant: no call is waited for
 * but by its stream, and inputs come there behind other work, so that what is not ordered is wrong.
 */
#define _GNU_SOURCE
#include <hfreduce.h>

/* Chooses the device and joins. */
static hfrResult_t join(hfrComm_t* comm, int ranks, hfrUniqueId id, int rank);
#define RANKS_JOIN join

#include "ranks.h"

#include "driver.h"

static hfrResult_t join(hfrComm_t* comm, int ranks, hfrUniqueId id, int rank) {
  use_device(0);
  return hfrCommInitRank(comm, ranks, id, rank);
}

enum { RANKS = 4, COUNT = 50001 };

/* Element i of what rank gives. */
static int32_t given(int rank, size_t i) { return (int32_t)(i % 1000) + 3 * rank + 1; }

/* The sum of the first ranks. */
static int32_t sum(int ranks, size_t i) { return ranks * ((int32_t)(i % 1000) + 1) + 3 * ranks * (ranks - 1) / 2; }

/* A buffer that its stream fills, later; the host's side of it is pinned. */
typedef struct {
  CUstream stream;
  int32_t* at;
  int32_t* host;
} Buffer;

static Buffer filled(CUstream stream, int rank, size_t count) {
  Buffer buffer;
  void* host;
  size_t i;
  CUDA(cuMemHostAlloc(&host, count * 4, 0));
  buffer.stream = stream;
  buffer.host = (int32_t*)host;
  buffer.at = (int32_t*)on_device(count * 4);
  for (i = 0; i < count; i++) buffer.host[i] = given(rank, i);
  CUDA(cuMemcpyHtoDAsync_v2(place(buffer.at), buffer.host, count * 4, stream));
  return buffer;
}

/* What the device has when the stream is done. */
static const int32_t* result(Buffer* buffer, const int32_t* at, size_t count) {
  CUDA(cuStreamSynchronize(buffer->stream));
  CUDA(cuMemcpyDtoH_v2(buffer->host, place(at), count * 4));
  return buffer->host;
}

static void let_go(Buffer* buffer) {
  CUDA(cuMemFreeHost(buffer->host));
  free_on_device(buffer->at);
}

static void is_sum(const int32_t* got, int ranks, size_t count) {
  size_t i;
  for (i = 0; i < count; i++) CHECK(got[i] == sum(ranks, i), "element %zu is %d and not %d", i, (int)got[i], (int)sum(ranks, i));
}

/* The device's own ranks beside those of the host, and every kind of memory. */
static void mixed(Rank* self) {
  CUstream stream = new_stream();
  Buffer buffer = filled(stream, self->rank, COUNT);
  static int32_t host[COUNT];
  size_t i;
  int device = -2;
  for (i = 0; i < COUNT; i++) host[i] = given(self->rank, i);
  if (self->rank == 0) {
    OK(hfrAllReduce(host, host, COUNT, hfrInt32, hfrSum, self->comm, NULL));
    is_sum(host, RANKS, COUNT);
  } else {
    OK(hfrAllReduce(buffer.at, buffer.at, COUNT, hfrInt32, hfrSum, self->comm, stream));
    is_sum(result(&buffer, buffer.at, COUNT), RANKS, COUNT);
  }
  OK(hfrCommCuDevice(self->comm, &device));
  CHECK(device == 0, "device %d", device);
  /* From pinned memory to the device and back, without a stream of one's own. */
  CUDA(cuStreamSynchronize(stream));
  for (i = 0; i < COUNT; i++) buffer.host[i] = given(self->rank, i);
  OK(hfrAllReduce(buffer.host, buffer.at, COUNT, hfrInt32, hfrSum, self->comm, NULL));
  buffer.stream = NULL;
  is_sum(result(&buffer, buffer.at, COUNT), RANKS, COUNT);
  REFUSED("recvbuff is ordinary host memory", hfrAllReduce(buffer.at, host, COUNT, hfrInt32, hfrSum, self->comm, stream));
  REFUSED("the other buffer is device memory", hfrAllReduce(host, buffer.at, COUNT, hfrInt32, hfrSum, self->comm, NULL));
  OK(hfrBarrier(self->comm, stream));
  OK(hfrAllReduce(NULL, NULL, 0, hfrInt32, hfrSum, self->comm, stream));
  CUDA(cuStreamSynchronize(stream));
  let_go(&buffer);
  CUDA(cuStreamDestroy_v2(stream));
}

/* A group of calls: two communicators, two streams, the host, messages, and one to the own rank. */
static void group(Rank* self) {
  int next = (self->rank + 1) % RANKS, before = (self->rank + RANKS - 1) % RANKS, half = self->rank / 2;
  CUstream one = new_stream(), two = new_stream();
  Buffer whole = filled(one, self->rank, COUNT), part = filled(two, self->rank % 2, COUNT), sent = filled(two, self->rank, COUNT);
  int32_t word = self->rank, *came = (int32_t*)on_device(COUNT * 4);
  const int32_t* got;
  hfrComm_t comm;
  size_t i;
  OK(hfrCommSplit(self->comm, half, 0, &comm, NULL));
  OK(hfrGroupStart());
  OK(hfrAllReduce(whole.at, whole.at, COUNT, hfrInt32, hfrSum, self->comm, one));
  OK(hfrAllReduce(&word, &word, 1, hfrInt32, hfrMax, self->comm, NULL));
  OK(hfrAllReduce(part.at, part.at, COUNT, hfrInt32, hfrSum, comm, two));
  OK(hfrSend(sent.at, COUNT - 7, hfrInt32, next, self->comm, two));
  OK(hfrRecv(came, COUNT - 7, hfrInt32, before, self->comm, two));
  OK(hfrSend(sent.at, 7, hfrInt32, self->rank, self->comm, two));
  OK(hfrRecv(came + COUNT - 7, 7, hfrInt32, self->rank, self->comm, two));
  OK(hfrGroupEnd());
  CHECK(word == RANKS - 1, "the word is %d", (int)word);
  is_sum(result(&whole, whole.at, COUNT), RANKS, COUNT);
  is_sum(result(&part, part.at, COUNT), 2, COUNT);
  got = result(&sent, came, COUNT);
  for (i = 0; i < COUNT - 7; i++) CHECK(got[i] == given(before, i), "element %zu is %d", i, (int)got[i]);
  for (i = 0; i < 7; i++) CHECK(got[COUNT - 7 + i] == given(self->rank, i), "own element %zu is %d", i, (int)got[COUNT - 7 + i]);
  let_go(&whole);
  let_go(&part);
  let_go(&sent);
  free_on_device(came);
  OK(hfrCommDestroy(comm));
  CUDA(cuStreamDestroy_v2(one));
  CUDA(cuStreamDestroy_v2(two));
}

/* Blocks of any length between places on the device. */
static void all_to_all_v(Rank* self) {
  CUstream stream = new_stream();
  size_t counts[RANKS], to[RANKS], from[RANKS], place_of[RANKS], e;
  Buffer buffer = filled(stream, self->rank, COUNT);
  int32_t* out = (int32_t*)on_device(COUNT * 4);
  const int32_t* got;
  int r;
  for (r = 0; r < RANKS; r++) {
    counts[r] = (size_t)(100 * self->rank + 10 * r);
    from[r] = (size_t)(100 * r + 10 * self->rank);
    to[r] = (size_t)(1000 * r);
    place_of[r] = (size_t)(2000 * (RANKS - r));
  }
  OK(hfrAlltoAllv(buffer.at, counts, to, out, from, place_of, hfrInt32, self->comm, stream));
  got = result(&buffer, out, COUNT);
  for (r = 0; r < RANKS; r++) {
    for (e = 0; e < from[r]; e++) {
      int32_t right = given(r, (size_t)(1000 * self->rank) + e);
      CHECK(got[place_of[r] + e] == right, "element %zu from rank %d is %d and not %d", e, r, (int)got[place_of[r] + e], (int)right);
    }
  }
  let_go(&buffer);
  free_on_device(out);
  CUDA(cuStreamDestroy_v2(stream));
}

/* Tensors as they get ready on one stream, their sums fused for another. */
static void reducer(Rank* self) {
  static const char* NAMES[3] = {"last", "middle", "first"};
  static const size_t COUNTS[3] = {7, COUNT, 1000};
  CUstream backward = new_stream(), optimizer = new_stream();
  Buffer tensors[3];
  hfrReducer_t of;
  const char* const* names;
  size_t total, done = 0, first = 0;
  int32_t* fused;
  int step, t;
  OK(hfrReducerCreate(&of, self->comm, hfrInt32, hfrSum));
  for (t = 0; t < 3; t++) OK(hfrReducerRegister(of, NAMES[t], COUNTS[t]));
  OK(hfrReducerTotal(of, &total));
  fused = (int32_t*)on_device(total * 4);
  OK(hfrReducerSetFusedDest(of, fused));
  for (step = 0; step < 3; step++) {
    for (t = 0; t < 3; t++) {
      tensors[t] = filled(backward, self->rank, COUNTS[t]);
      OK(hfrReducerAsyncReduce(of, backward, NAMES[t], tensors[t].at, COUNTS[t]));
    }
    OK(hfrReducerSynchronize(of, optimizer, &names, &done));
    CHECK(done == 3 && strcmp(names[2], "first") == 0, "%zu names", done);
    for (t = 0, first = 0; t < 3; first += COUNTS[t++]) {
      tensors[t].stream = optimizer;
      is_sum(result(&tensors[t], fused + first, COUNTS[t]), RANKS, COUNTS[t]);
    }
    CUDA(cuStreamSynchronize(backward));
    for (t = 0; t < 3; t++) let_go(&tensors[t]);
  }
  OK(hfrReducerDestroy(of));
  free_on_device(fused);
  CUDA(cuStreamDestroy_v2(backward));
  CUDA(cuStreamDestroy_v2(optimizer));
}

/* The host waits for nothing: neither where calls block, nor where they do not. */
static void not_waiting(Rank* self) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  hfrResult_t state = hfrInProgress;
  hfrComm_t comm;
  CUstream stream;
  Buffer buffer;
  config.gpu = 1;
  config.blocking = self->ranks % 2; /* 0 with four ranks, 1 with three */
  use_device(0);
  EXPECT(config.blocking ? hfrSuccess : hfrInProgress, hfrCommInitRankConfig(&comm, self->ranks, self->id, self->rank, &config));
  CHECK(settled(comm) == hfrSuccess, "%s", hfrGetLastError(comm));
  stream = new_stream();
  buffer = filled(stream, self->rank, COUNT);
  /* The first call of a kind waits until all have come to it. */
  OK(hfrAllReduce(buffer.at, buffer.at, COUNT, hfrInt32, hfrMax, comm, stream));
  CUDA(cuStreamSynchronize(stream));
  let_go(&buffer);
  buffer = filled(stream, self->rank, COUNT);
  if (self->rank == 1) behind_all(self, 1);
  OK(hfrAllReduce(buffer.at, buffer.at, COUNT, hfrInt32, hfrSum, comm, stream));
  if (self->rank != 1) {
    CHECK(cuStreamQuery(stream) == NOT_READY, "it went on without rank 1");
    behind_all(self, 1);
  }
  OK(hfrCommGetAsyncError(comm, &state));
  CHECK(state == hfrSuccess, "a call on a stream is in progress: %d", (int)state);
  is_sum(result(&buffer, buffer.at, COUNT), self->ranks, COUNT);
  OK(hfrCommDestroy(comm));
  let_go(&buffer);
  CUDA(cuStreamDestroy_v2(stream));
}

/* One rank's device breaks: everybody is told, and the streams of the others go on. */
static void broken_device(Rank* self) {
  CUstream stream;
  Buffer buffer;
  hfrComm_t comm;
  hfrResult_t state = hfrSuccess;
  if (self->rank == 1) setenv("STANDIN_FAIL", "copy:3", 1);
  use_device(0);
  OK(hfrCommInitRank(&comm, RANKS, self->id, self->rank));
  stream = new_stream();
  buffer = filled(stream, self->rank, COUNT);
  while (state == hfrSuccess) {
    state = hfrAllReduce(buffer.at, buffer.at, COUNT, hfrInt32, hfrSum, comm, stream);
    if (self->rank != 1) CUDA(cuStreamSynchronize(stream));
    if (state == hfrSuccess) OK(hfrCommGetAsyncError(comm, &state));
    rest(1);
  }
  CHECK(state == hfrUnhandledCudaError, "%s: %s", hfrGetErrorString(state), hfrGetLastError(comm));
  CHECK(strstr(hfrGetLastError(comm), "rank 1") != NULL, "whose device? %s", hfrGetLastError(comm));
  OK(hfrCommDestroy(comm));
  if (self->rank != 1) {
    let_go(&buffer);
    CUDA(cuStreamDestroy_v2(stream));
  }
}

int main(int argc, char** argv) {
  static const Case CASES[] = {
      {"mixed", RANKS, 1, 0, -1, mixed},
      {"mixed", RANKS, 2, 0, -1, mixed},
      {"group", RANKS, 2, 0, -1, group},
      {"all_to_all_v", RANKS, 1, 0, -1, all_to_all_v},
      {"reducer", RANKS, 2, 0, -1, reducer},
      {"not_waiting", RANKS, 1, 1, -1, not_waiting},
      {"not_waiting", 3, 1, 1, -1, not_waiting},
      {"broken_device", RANKS, 1, 1, -1, broken_device},
      {"broken_device", RANKS, 2, 1, -1, broken_device},
  };
  return run_cases(CASES, sizeof CASES / sizeof CASES[0], argc > 1 ? argv[1] : NULL);
}

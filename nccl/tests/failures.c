/*
 * failures.c: what a program written for NCCL is told when something is wrong on a device or in the group, and what it asks besides moving data.
 * Knows of the library what NCCL's documentation says, and the words of its errors. Invariant: whatever fails, streams go on, and the
 * failure is told by the call, by ncclCommGetAsyncError, or by the next call.
 */
#define _GNU_SOURCE
#include "ranks_of_nccl.h"

#include <pthread.h>

enum { RANKS = 3, COUNT = 100000 };

typedef struct {
  CUstream stream;
  float* at;
} Place;

static Place new_place(void) {
  Place place;
  place.stream = new_stream();
  place.at = (float*)on_device(COUNT * 4);
  CUDA(cuMemsetD32Async((CUdeviceptr)(uintptr_t)place.at, 0x3f800000, COUNT, place.stream)); /* 1.0f */
  return place;
}

static void close_place(Place place) {
  CUDA(cuStreamSynchronize(place.stream));
  CUDA(cuStreamDestroy_v2(place.stream));
  free_on_device(place.at);
}

/* The first and the last element, once the stream has done its work. */
static void ends_are(Place place, float value) {
  float first, last;
  CUDA(cuStreamSynchronize(place.stream));
  CUDA(cuMemcpyDtoH_v2(&first, (CUdeviceptr)(uintptr_t)place.at, 4));
  CUDA(cuMemcpyDtoH_v2(&last, (CUdeviceptr)(uintptr_t)(place.at + COUNT - 1), 4));
  CHECK(first == value && last == value, "%f and %f in the place of %f", first, last, value);
}

/* The group works; what is there is one everywhere. */
static void works(ncclComm_t comm, int ranks) {
  Place place = new_place();
  OK(ncclAllReduce(place.at, place.at, COUNT, ncclFloat32, ncclSum, comm, place.stream));
  ends_are(place, (float)ranks);
  close_place(place);
}

static void questions(Rank* self) {
  ncclComm_t comm = self->comm, part = NULL, other = NULL;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  int number = 0, excluded = 1, i;
  void *handle = NULL, *memory = NULL;
  Place place = new_place();
  OK(ncclGetVersion(&number));
  CHECK(number == 22803, "version %d", number);
  for (i = 0; i < 8; i++) CHECK(strlen(ncclGetErrorString((ncclResult_t)i)) > 7, "no words for %d", i);
  OK(ncclCommCount(comm, &number));
  CHECK(number == RANKS, "%d ranks", number);
  OK(ncclCommUserRank(comm, &number));
  CHECK(number == self->rank, "rank %d", number);
  OK(ncclCommCuDevice(comm, &number));
  CHECK(number == 0, "device %d", number);
  OK(ncclCommRegister(comm, place.at, COUNT * 4, &handle));
  OK(ncclCommDeregister(comm, handle));
  REFUSED("no registration", ncclCommDeregister(comm, handle));
  /* Memory of ncclMemAlloc is the device's. */
  OK(ncclMemAlloc(&memory, COUNT * 4));
  CUDA(cuMemcpyDtoDAsync_v2((CUdeviceptr)(uintptr_t)memory, (CUdeviceptr)(uintptr_t)place.at, COUNT * 4, place.stream));
  OK(ncclAllReduce(memory, place.at, COUNT, ncclFloat32, ncclSum, comm, place.stream));
  ends_are(place, RANKS);
  OK(ncclMemFree(memory));
  OK(ncclMemFree(NULL));
  REFUSED("no device memory", ncclMemFree(&number));
  /* What is not done says so, and leaves the group as it was. */
  FAILS(ncclInvalidUsage, "ncclCommInitRank", ncclCommShrink(comm, &excluded, 1, &part, NULL, 0));
  OK(ncclGroupStart());
  OK(ncclAllReduce(place.at, place.at, COUNT, ncclFloat32, ncclSum, comm, place.stream));
  FAILS(ncclInvalidUsage, "no estimate", ncclGroupSimulateEnd(&info));
  FAILS(ncclInvalidUsage, "ncclGroupStart first", ncclGroupSimulateEnd(&info));
  ends_are(place, RANKS);
  /* Parts of the group, one of them of this rank alone. */
  config.blocking = 0;
  OK(ncclCommSplit(comm, self->rank == 2, -self->rank, &part, &config));
  CHECK(settled(part) == ncclSuccess, "%s", ncclGetLastError(part));
  OK(ncclCommUserRank(part, &number));
  CHECK(number == (self->rank == 0), "rank %d of the part", number);
  works(part, self->rank == 2 ? 1 : 2);
  EXPECT(ncclInProgress, ncclCommFinalize(part));
  CHECK(settled(part) == ncclSuccess, "%s", ncclGetLastError(part));
  OK(ncclCommDestroy(part));
  OK(ncclCommSplit(comm, self->rank == 1 ? NCCL_SPLIT_NOCOLOR : 4, 0, &part, NULL));
  CHECK((part == NULL) == (self->rank == 1), "a part for %d", self->rank);
  if (part != NULL) works(part, 2);
  OK(ncclCommDestroy(part));
  config.magic = 7;
  REFUSED("NCCL_CONFIG_INITIALIZER", ncclCommInitRankConfig(&other, 1, self->id, 0, &config));
  REFUSED("NCCL_SPLIT_NOCOLOR", ncclCommSplit(comm, -3, 0, &other, NULL));
  REFUSED("0 identities", ncclCommInitRankScalable(&other, 1, 0, 0, &self->id, NULL));
  REFUSED("0 communicators", ncclCommInitAll(&other, 0, NULL));
  works(comm, RANKS);
  close_place(place);
}

static void scalable(Rank* self) {
  ncclUniqueId ids[2];
  ncclComm_t comm;
  memset(ids, 5, sizeof ids);
  ids[0] = self->id;
  use_device(0);
  OK(ncclCommInitRankScalable(&comm, RANKS, self->rank, 2, ids, NULL));
  works(comm, RANKS);
  OK(ncclCommDestroy(comm));
}

static void wrong_memory(Rank* self) {
  ncclComm_t comm = self->comm;
  Place place = new_place(), second = new_place();
  static float host[8] = {1, 2, 3};
  void *graph = NULL, *pinned = NULL;
  float* words;
  REFUSED("sendbuff is ordinary host memory", ncclAllReduce(host, place.at, 8, ncclFloat32, ncclSum, comm, place.stream));
  REFUSED("recvbuff is ordinary host memory", ncclAllReduce(place.at, host, 8, ncclFloat32, ncclSum, comm, NULL));
  REFUSED("sendbuff is NULL", ncclAllReduce(NULL, place.at, 8, ncclFloat32, ncclSum, comm, place.stream));
  REFUSED("is no ", ncclAllReduce(place.at, place.at, 8, (ncclDataType_t)77, ncclSum, comm, place.stream));
  CUDA(cuStreamBeginCapture_v2(second.stream, 1));
  REFUSED("CUDA graph", ncclAllReduce(second.at, second.at, 8, ncclFloat32, ncclSum, comm, second.stream));
  CUDA(cuStreamEndCapture(second.stream, &graph));
  /* Both sides of a message to the own rank are on one stream. */
  OK(ncclGroupStart());
  OK(ncclSend(place.at, 8, ncclFloat32, self->rank, comm, place.stream));
  OK(ncclRecv(second.at, 8, ncclFloat32, self->rank, comm, second.stream));
  REFUSED("different streams", ncclGroupEnd());
  /* Pinned memory is the device's as well as the host's: on a stream, and without one. */
  CUDA(cuMemHostAlloc(&pinned, 8 * sizeof(float), 0));
  words = (float*)pinned;
  words[0] = words[7] = 2;
  OK(ncclAllReduce(words, words, 8, ncclFloat32, ncclSum, comm, place.stream));
  CUDA(cuStreamSynchronize(place.stream));
  CHECK(words[0] == 2 * RANKS && words[7] == 2 * RANKS, "%f", words[0]);
  OK(ncclAllReduce(words, words, 8, ncclFloat32, ncclAvg, comm, NULL));
  CHECK(words[0] == 2 * RANKS && words[7] == 2 * RANKS, "%f", words[0]);
  CUDA(cuMemFreeHost(pinned));
  close_place(place);
  close_place(second);
  works(comm, RANKS);
}

/* One rank dies while streams of the others wait for it: they go on, and everybody is told. */
static void killed(Rank* self) {
  Place place = new_place();
  ncclResult_t error = ncclSuccess;
  works(self->comm, RANKS);
  behind_all(self, 1);
  if (self->rank == 1) {
    rest(200);
    raise(SIGKILL);
  }
  /* Without waits of the device's own the call itself waits, so that rank 1 cannot wait for it; its end may be known already. */
  error = ncclAllReduce(place.at, place.at, COUNT, ncclFloat32, ncclSum, self->comm, place.stream);
  CHECK(error == ncclSuccess || error == ncclRemoteError, "%d: %s", error, ncclGetLastError(self->comm));
  error = ncclSuccess;
  CUDA(cuMemsetD32Async((CUdeviceptr)(uintptr_t)place.at, 0x40000000, COUNT, place.stream)); /* 2.0f */
  ends_are(place, 2);
  while (error == ncclSuccess) {
    OK(ncclCommGetAsyncError(self->comm, &error));
    rest(1);
  }
  CHECK(error == ncclRemoteError && strstr(ncclGetLastError(self->comm), "rank 1") != NULL, "%d: %s", error,
        ncclGetLastError(self->comm));
  error = ncclAllReduce(place.at, place.at, COUNT, ncclFloat32, ncclSum, self->comm, place.stream);
  ends_are(place, 2);
  OK(ncclCommGetAsyncError(self->comm, &error));
  CHECK(error == ncclRemoteError, "it does not stay");
  close_place(place);
}

static void* aborts(void* comm) {
  rest(300);
  OK(ncclCommAbort((ncclComm_t)comm));
  return NULL;
}

/* A program that has waited long enough: a watchdog aborts, and the stream goes on. */
static void aborted(Rank* self) {
  Place place;
  ncclComm_t comm;
  pthread_t watchdog;
  use_device(0);
  place = new_place();
  OK(ncclCommInitRank(&comm, RANKS, self->id, self->rank));
  works(comm, RANKS);
  if (self->rank != 2) {
    OK(ncclAllReduce(place.at, place.at, COUNT, ncclFloat32, ncclSum, comm, place.stream));
    CHECK(cuStreamQuery(place.stream) == NOT_READY, "the stream did not wait");
    CHECK(pthread_create(&watchdog, NULL, aborts, comm) == 0, "no thread");
    CUDA(cuStreamSynchronize(place.stream));
    pthread_join(watchdog, NULL);
    REFUSED("no communicator that lives", ncclCommDestroy(comm));
  } else {
    ncclResult_t error = ncclSuccess;
    while (error == ncclSuccess) {
      OK(ncclCommGetAsyncError(comm, &error));
      rest(1);
    }
    CHECK(error == ncclRemoteError, "%s", ncclGetLastError(comm));
    OK(ncclCommDestroy(comm));
  }
  close_place(place);
}

/* Calls on streams that differ between ranks: the calls are made, the failure comes behind them. */
static void other_count(Rank* self) {
  Place place = new_place();
  ncclResult_t error = ncclSuccess;
  OK(ncclAllReduce(place.at, place.at, self->rank == 1 ? 9 : 10, ncclFloat32, ncclSum, self->comm, place.stream));
  CUDA(cuStreamSynchronize(place.stream));
  while (error == ncclSuccess) {
    OK(ncclCommGetAsyncError(self->comm, &error));
    rest(1);
  }
  CHECK(error == ncclInvalidUsage && strstr(ncclGetLastError(self->comm), "rank") != NULL, "%s", ncclGetLastError(self->comm));
  close_place(place);
}

/* Destroyed with work on the stream: that ends first. */
static void destroyed(Rank* self) {
  Place place;
  ncclComm_t comm;
  use_device(0);
  place = new_place();
  OK(ncclCommInitRank(&comm, RANKS, self->id, self->rank));
  OK(ncclAllReduce(place.at, place.at, COUNT, ncclFloat32, ncclSum, comm, place.stream));
  OK(ncclCommDestroy(comm));
  ends_are(place, RANKS);
  close_place(place);
}

int main(int argc, char** argv) {
  static const Case CASES[] = {
      {"questions", RANKS, 1, 0, -1, questions}, {"scalable", RANKS, 1, 1, -1, scalable},
      {"wrong_memory", RANKS, 1, 0, -1, wrong_memory}, {"killed", RANKS, 1, 0, 1, killed},
      {"killed", RANKS, 3, 0, 1, killed},        {"aborted", RANKS, 1, 1, -1, aborted},
      {"other_count", RANKS, 3, 0, -1, other_count}, {"destroyed", RANKS, 1, 1, -1, destroyed},
  };
  return run_cases(CASES, sizeof CASES / sizeof CASES[0], argc > 1 ? argv[1] : NULL);
}

/*
 * ranks_of_nccl.h: NCCL's names for what ranks.h, the player of jobs, calls by those of hfreduce.h; and numbers on devices. Knows nothing of what is
 * tested. Invariant: programs are written for NCCL alone and name nothing of this library.
 */
#ifndef RANKS_OF_NCCL_H_
#define RANKS_OF_NCCL_H_

#ifdef REAL_NCCL
#include <nccl.h>
#if NCCL_VERSION_CODE < NCCL_VERSION(2, 28, 0)
/* These came with 2.28. */
ncclResult_t ncclAlltoAll(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclGather(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclScatter(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream);
#endif
#else
#include "shape.h"
#endif

#define RANKS_NAMES
#define hfrComm_t ncclComm_t
#define hfrUniqueId ncclUniqueId
#define hfrResult_t ncclResult_t
#define hfrSuccess ncclSuccess
#define hfrInvalidArgument ncclInvalidArgument
#define hfrInProgress ncclInProgress
#define hfrGetErrorString ncclGetErrorString
#define hfrGetLastError ncclGetLastError
#define hfrGetUniqueId ncclGetUniqueId
#define RANKS_JOIN join
#define hfrCommDestroy ncclCommDestroy
#define hfrCommGetAsyncError ncclCommGetAsyncError

/* Chooses the device and joins. */
static ncclResult_t join(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank);

#include "ranks.h"

#include "driver.h"

static ncclResult_t join(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  use_device(0);
  return ncclCommInitRank(comm, ranks, id, rank);
}

/* What rank gives as element i: a small number, so that every type holds what comes of it. */
static inline double given(int rank, size_t i) { return (double)(1 + ((size_t)rank * (size_t)rank + i) % 3); }

/* Gives work to stream that makes count elements at `at` what rank gives, from element first on; returns before that is done. The host's
 * copy is pinned and is the caller's to free when the stream has done it. */
static inline void* give_later(void* at, int type, int rank, size_t first, size_t count, CUstream stream) {
  size_t i, bytes = count * (size_t)LAYOUTS[type].bytes;
  void* host;
  CUDA(cuMemHostAlloc(&host, bytes + 1, 0));
  for (i = 0; i < count; i++) put_number(type, host, i, given(rank, first + i));
  CUDA(cuMemcpyHtoDAsync_v2(place(at), host, bytes, stream));
  return host;
}

/* A place on the host that has what is on the device. */
static inline void* fetched(const void* at, size_t bytes) {
  void* host = malloc(bytes + 1);
  CHECK(host != NULL, "no memory");
  CUDA(cuMemcpyDtoH_v2(host, place(at), bytes));
  return host;
}

#endif /* RANKS_OF_NCCL_H_ */

/*
 * hfreduce.h: collectives on the CPU for data-parallel training, in the shape of NCCL's interface. C99 and C++11.
 *
 * Names, arguments, their order and the values of the enumerations are NCCL's with the prefix hfr; what differs is said at each function and
 * in docs/c.md. This file knows nothing of the library's inside: communicators, reducers and operations are handles. Invariant: every function
 * returns; none throws, none ends the process, and each failure leaves a text that hfrGetLastError() gives.
 *
 * Words. A communicator is one rank's part in a group of ranks that call the same functions in the same order. A rank is a process, or a thread
 * with a communicator of its own. Counts are numbers of elements, never bytes, unless a name says "size". Buffers are host memory, or lie on
 * a GPU; of one call's ranks some may have the one and some the other.
 *
 * Streams. Buffers in device memory (or managed memory) belong on a CUDA stream: the call is put on it and returns at once, on blocking
 * communicators too. It begins when the stream has done what it was given before, what the stream is given later waits for the result,
 * and the host waits for nothing. A NULL stream is then the legacy default stream. Pinned host memory goes the same way where the stream is
 * not NULL; where it is NULL, and for all other host memory, a call is made on the host. Host memory that is not pinned beside a stream or
 * beside device memory is hfrInvalidArgument, and so is a stream that records a CUDA graph. What fails after a call was put on its stream is
 * told by hfrCommGetAsyncError() and by every later call; the stream goes on in any case, and its buffers then hold no result. No kernel is
 * ever started. A process without CUDA needs none, and none is loaded.
 *
 * Blocking. A call on a blocking communicator (the usual) returns when its result is there. On a communicator made with blocking = 0 it
 * returns hfrInProgress once it is under way; its buffers must be left alone until hfrCommGetAsyncError() says something else than hfrInProgress.
 *
 * Failing. hfrInvalidArgument: nothing was started and the communicator stays good. Any other failure of a collective is a failure of the
 * group: every rank gets it, with the same text, and so does every later call; what is left to do is hfrCommDestroy().
 */
#ifndef HFREDUCE_H_
#define HFREDUCE_H_

#include <limits.h>
#include <stddef.h>

#define HFR_MAJOR 0
#define HFR_MINOR 1
#define HFR_PATCH 0
/* A version as one number that can be compared, as hfrGetVersion() has it. */
#define HFR_VERSION(major, minor, patch) ((major) * 10000 + (minor) * 100 + (patch))
#define HFR_VERSION_CODE HFR_VERSION(HFR_MAJOR, HFR_MINOR, HFR_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* ---- types -------------------------------------------------------------------------------------------------------------------------- */

/* A communicator. A handle that was destroyed is never given out again, and using it is hfrInvalidArgument. */
typedef struct hfrComm* hfrComm_t;
/* A reducer: named tensors that are reduced into one destination. */
typedef struct hfrReducer* hfrReducer_t;
/* A CUDA stream (CUstream, cudaStream_t), for buffers that are device or pinned memory; NULL for host memory, and the legacy default
 * stream for device memory. */
typedef void* hfrStream_t;

/* Where a group meets, and its secret: hand it to all ranks over a way that strangers cannot read. */
#define HFR_UNIQUE_ID_BYTES 128
typedef struct hfrUniqueId {
  char internal[HFR_UNIQUE_ID_BYTES];
} hfrUniqueId;

/* What a function returns. */
typedef enum {
  hfrSuccess = 0,
  hfrUnhandledCudaError = 1, /* a device or its driver failed: see the text */
  hfrSystemError = 2,        /* memory, threads or the start of the group: see the text */
  hfrInternalError = 3,      /* a bug of the library: please report it with the text */
  hfrInvalidArgument = 4,    /* an argument makes no sense; nothing was started */
  hfrInvalidUsage = 5,       /* ranks made different calls, or a call came when it must not */
  hfrRemoteError = 6,        /* a rank is gone, stalls past the timeout, a connection broke, or a rank aborted */
  hfrInProgress = 7,         /* under way: ask hfrCommGetAsyncError() */
  hfrNumResults = 8
} hfrResult_t;

/* Types of elements. */
typedef enum {
  hfrInt8 = 0,
  hfrChar = 0,
  hfrUint8 = 1,
  hfrInt32 = 2,
  hfrInt = 2,
  hfrUint32 = 3,
  hfrInt64 = 4,
  hfrUint64 = 5,
  hfrFloat16 = 6,
  hfrHalf = 6,
  hfrFloat32 = 7,
  hfrFloat = 7,
  hfrFloat64 = 8,
  hfrDouble = 8,
  hfrBfloat16 = 9,
  hfrFloat8e4m3 = 10, /* no infinity; results above 448 are 448 */
  hfrFloat8e5m2 = 11,
  hfrNumTypes = 12
} hfrDataType_t;

/* Operations. Values from hfrNumOps up to hfrBand are those that hfrRedOpCreatePreMulSum() makes. */
typedef enum {
  hfrSum = 0,
  hfrProd = 1,
  hfrMax = 2,
  hfrMin = 3,
  hfrAvg = 4, /* the sum divided by the number of ranks; integers truncate toward zero */
  hfrNumOps = 5,
  hfrBand = 0x40000000, /* bitwise and, for integers; the bitwise operations are not NCCL's */
  hfrBor = 0x40000001,  /* bitwise or, for integers */
  hfrBxor = 0x40000002, /* bitwise exclusive or, for integers */
  hfrMaxRedOp = 0x7fffffff
} hfrRedOp_t;

/* Where the factor of a premultiplied sum lies. */
typedef enum {
  hfrScalarDevice = 0,       /* in device or pinned memory, read by each call that uses it: see hfrRedOpCreatePreMulSum() */
  hfrScalarHostImmediate = 1 /* in host memory, read before the call returns */
} hfrScalarResidence_t;

/* Settings of a communicator. Begin with HFR_CONFIG_INITIALIZER, then set what is to differ. Fields are only ever added at the end: a
 * program compiled with an earlier header goes on working with a later library. */
typedef struct hfrConfig {
  size_t size;          /* set by the initializer */
  unsigned int magic;   /* set by the initializer */
  unsigned int version; /* set by the initializer: the header's version */
  int blocking;         /* 1: calls return with their results (the default); 0: calls return at once */
  int timeoutMs;        /* milliseconds without progress after which a call fails; default HFR_TIMEOUT, else 300 s */
  int connectTimeoutMs; /* milliseconds in which all ranks must have come; default HFR_CONNECT_TIMEOUT, else 120 s */
  const char* node;     /* name of the node that this rank claims to be on; default HFR_NODE, else this host */
  int gpu;              /* 1: buffers lie on GPUs, on one rank at least; 0: on none; default: 1 where this process has a CUDA context */
} hfrConfig_t;

#define HFR_CONFIG_MAGIC 0x31726668u
#define HFR_CONFIG_UNDEF_INT INT_MIN
#define HFR_CONFIG_UNDEF_PTR NULL
#define HFR_CONFIG_INITIALIZER                                                                                     \
  {                                                                                                                \
    sizeof(hfrConfig_t), HFR_CONFIG_MAGIC, HFR_VERSION_CODE, HFR_CONFIG_UNDEF_INT, HFR_CONFIG_UNDEF_INT,           \
        HFR_CONFIG_UNDEF_INT, HFR_CONFIG_UNDEF_PTR, HFR_CONFIG_UNDEF_INT                                           \
  }

/* hfrCommSplit(): this rank is in none of the new groups. */
#define HFR_SPLIT_NOCOLOR (-1)

/* ---- version and errors -------------------------------------------------------------------------------------------------------------- */

/* The library's version, to compare with HFR_VERSION(). hfrInvalidArgument: version is NULL. */
hfrResult_t hfrGetVersion(int* version);

/* What a result means, in a few words. Never NULL; the text lives for ever. */
const char* hfrGetErrorString(hfrResult_t result);

/* The text of the last failure: of comm, or of this thread where comm is NULL or no communicator that lives. Says rank, operation, cause and
 * what to do; empty where nothing failed. Never NULL; good until this thread asks again. */
const char* hfrGetLastError(hfrComm_t comm);

/* ---- communicators ------------------------------------------------------------------------------------------------------------------ */

/* Makes the identity of a new group, on one rank; hand its bytes to the others. The group meets in this process, which must live, and keep
 * its communicator, as long as other ranks use theirs and those split from them. HFR_COMM_ID=host:port sets the place; otherwise the
 * interface is chosen as HFR_SOCKET_IFNAME or the default route has it. hfrSystemError: no address to listen on. */
hfrResult_t hfrGetUniqueId(hfrUniqueId* uniqueId);

/* Joins the group of nranks ranks as number rank; returns when all have come. Inside hfrGroupStart()/hfrGroupEnd() it returns at once, and
 * hfrGroupEnd() joins all of the thread's communicators at a time: so one thread can be several ranks. The communicator is blocking.
 * hfrInvalidArgument: rank is not in 0..nranks-1, or commId is no identity. hfrSystemError: ranks did not come in time, settings that
 * differ, no memory. *comm is NULL after a failure. (After a failure in a group it stays good for hfrGetLastError() and hfrCommDestroy().) */
hfrResult_t hfrCommInitRank(hfrComm_t* comm, int nranks, hfrUniqueId commId, int rank);

/* As hfrCommInitRank(), with settings; NULL for none. With blocking = 0 it returns hfrInProgress, and hfrCommGetAsyncError() says when the
 * communicator can be used. hfrInvalidArgument: a config that HFR_CONFIG_INITIALIZER did not begin, or from a header later than the
 * library. */
hfrResult_t hfrCommInitRankConfig(hfrComm_t* comm, int nranks, hfrUniqueId commId, int rank, const hfrConfig_t* config);

/* Not NCCL's. Joins the group that the launcher's environment describes (hfr run, torchrun, MPI launchers, Slurm, or HFR_RANK and so on); a
 * group of this rank alone where there is none. Errors as hfrCommInitRank(). */
hfrResult_t hfrCommInitEnv(hfrComm_t* comm);

/* Not NCCL's. As hfrCommInitEnv(), with settings; NULL for none. */
hfrResult_t hfrCommInitEnvConfig(hfrComm_t* comm, const hfrConfig_t* config);

/* Makes a group of the ranks with the same color (0 or more), in the order of key and then of rank in comm; all ranks of comm call it. With
 * color HFR_SPLIT_NOCOLOR *newcomm is NULL. config may be NULL; it may set only blocking: the rest is the parent's. comm stays good, and must
 * not be used for other calls until the split has ended. hfrInvalidArgument: another negative color, another setting. */
hfrResult_t hfrCommSplit(hfrComm_t comm, int color, int key, hfrComm_t* newcomm, const hfrConfig_t* config);

/* Waits until all calls have ended, and takes leave of the other ranks (at most a few seconds). After it only hfrCommDestroy(),
 * hfrCommAbort(), hfrCommGetAsyncError(), hfrGetLastError() and the counts below are good. With blocking = 0 it returns hfrInProgress. */
hfrResult_t hfrCommFinalize(hfrComm_t comm);

/* Ends comm, with hfrCommFinalize() where that was not called; waits for calls that are under way. NULL is hfrSuccess. hfrInvalidArgument:
 * destroyed before. */
hfrResult_t hfrCommDestroy(hfrComm_t comm);

/* Ends the group: calls under way on any rank end with hfrRemoteError, in a few seconds at most, and so does every later one; then
 * comm is destroyed. May be called while another thread is in a call on comm. NULL is hfrSuccess. */
hfrResult_t hfrCommAbort(hfrComm_t comm);

/* How comm does, in *asyncError: hfrInProgress until every call that was started (its making, a split or a finalize too) has ended; then
 * hfrSuccess, or the first failure, whose text hfrGetLastError(comm) gives. A failure of the group stays; an hfrInvalidArgument, after
 * which comm is as good as before, is told once. Calls on streams are never hfrInProgress: ask the stream for their end, and this for
 * their failure. */
hfrResult_t hfrCommGetAsyncError(hfrComm_t comm, hfrResult_t* asyncError);

/* Number of ranks. */
hfrResult_t hfrCommCount(hfrComm_t comm, int* count);
/* This rank. */
hfrResult_t hfrCommUserRank(hfrComm_t comm, int* rank);
/* The number of comm's device: that of its calls, and before the first of them the one that was current when comm was made; -1 where there is
 * none. All calls of a communicator are on one device; several ranks may be on the same. */
hfrResult_t hfrCommCuDevice(hfrComm_t comm, int* device);

/* ---- collectives -------------------------------------------------------------------------------------------------------------------- *
 * Every rank makes the same calls in the same order, with the same count, datatype, op and root: what differs is hfrInvalidUsage on every
 * rank. A count of 0 is a call like any other, and its buffers may be NULL. hfrInvalidArgument: a handle that does not live, a NULL buffer that is
 * needed, a type, operation, root or peer that is none, an operation that the type does not have, sizes past the address space, a
 * stream with memory that is not for it. Buffers must not overlap except as "in place" has it. */

/* Reduces count elements over all ranks; every rank gets the result, the same bit for bit. In place: sendbuff == recvbuff. */
hfrResult_t hfrAllReduce(const void* sendbuff, void* recvbuff, size_t count, hfrDataType_t datatype, hfrRedOp_t op,
                         hfrComm_t comm, hfrStream_t stream);

/* Reduces nranks * recvcount elements; rank r gets block r, of recvcount elements. In place: recvbuff == sendbuff + rank * recvcount. */
hfrResult_t hfrReduceScatter(const void* sendbuff, void* recvbuff, size_t recvcount, hfrDataType_t datatype,
                             hfrRedOp_t op, hfrComm_t comm, hfrStream_t stream);

/* Every rank gets the sendcount elements of every rank, in rank order: recvbuff has nranks * sendcount. In place: sendbuff == recvbuff +
 * rank * sendcount. */
hfrResult_t hfrAllGather(const void* sendbuff, void* recvbuff, size_t sendcount, hfrDataType_t datatype,
                         hfrComm_t comm, hfrStream_t stream);

/* Every rank gets the root's sendbuff in its recvbuff. sendbuff is read at the root alone and may be NULL elsewhere. In place at the root:
 * sendbuff == recvbuff. */
hfrResult_t hfrBroadcast(const void* sendbuff, void* recvbuff, size_t count, hfrDataType_t datatype, int root,
                         hfrComm_t comm, hfrStream_t stream);

/* As hfrBroadcast(), in place. */
hfrResult_t hfrBcast(void* buff, size_t count, hfrDataType_t datatype, int root, hfrComm_t comm, hfrStream_t stream);

/* Reduces count elements over all ranks; the root gets the result. recvbuff is written at the root alone and may be NULL elsewhere. In
 * place at the root: sendbuff == recvbuff. */
hfrResult_t hfrReduce(const void* sendbuff, void* recvbuff, size_t count, hfrDataType_t datatype, hfrRedOp_t op,
                      int root, hfrComm_t comm, hfrStream_t stream);

/* Block d of sendbuff goes to rank d, block s of recvbuff comes from rank s; blocks of count elements, nranks of them on both sides.
 * Never in place. */
hfrResult_t hfrAlltoAll(const void* sendbuff, void* recvbuff, size_t count, hfrDataType_t datatype, hfrComm_t comm,
                        hfrStream_t stream);

/* As hfrAlltoAll(), with blocks of any length: sendcounts[d] elements from element sdispls[d] on go to rank d; recvcounts[s] elements from
 * rank s come to element rdispls[s]. The four arrays have nranks numbers and are read before the call returns. Counts of a pair that
 * disagree are hfrInvalidArgument on every rank. */
hfrResult_t hfrAlltoAllv(const void* sendbuff, const size_t sendcounts[], const size_t sdispls[], void* recvbuff,
                         const size_t recvcounts[], const size_t rdispls[], hfrDataType_t datatype, hfrComm_t comm,
                         hfrStream_t stream);

/* The root gets the count elements of every rank, in rank order. recvbuff has nranks * count at the root and may be NULL elsewhere. In place
 * at the root: sendbuff == recvbuff + root * count. */
hfrResult_t hfrGather(const void* sendbuff, void* recvbuff, size_t count, hfrDataType_t datatype, int root,
                      hfrComm_t comm, hfrStream_t stream);

/* Rank r gets block r of the root's sendbuff, of count elements. sendbuff has nranks * count at the root and may be NULL elsewhere. In place
 * at the root: recvbuff == sendbuff + root * count. */
hfrResult_t hfrScatter(const void* sendbuff, void* recvbuff, size_t count, hfrDataType_t datatype, int root,
                       hfrComm_t comm, hfrStream_t stream);

/* Not NCCL's. Returns when all ranks have come here; on a stream, all their streams. */
hfrResult_t hfrBarrier(hfrComm_t comm, hfrStream_t stream);

/* Sends count elements to rank peer, which must call hfrRecv() with the same count and datatype; ends when the peer has them. What two ranks
 * send each other at a time stands in one hfrGroupStart()/hfrGroupEnd(); so does what a rank sends to itself, with its hfrRecv() on the
 * same stream. A failure is one of all messages from this rank to peer, from then on, and not of the group. */
hfrResult_t hfrSend(const void* sendbuff, size_t count, hfrDataType_t datatype, int peer, hfrComm_t comm,
                    hfrStream_t stream);

/* Receives count elements from rank peer. Messages of a pair of ranks come in the order in which they were sent. */
hfrResult_t hfrRecv(void* recvbuff, size_t count, hfrDataType_t datatype, int peer, hfrComm_t comm, hfrStream_t stream);

/* ---- groups of calls ---------------------------------------------------------------------------------------------------------------- *
 * Calls of this thread between hfrGroupStart() and the hfrGroupEnd() that belongs to it are only noted, and return hfrSuccess; the outermost
 * hfrGroupEnd() starts them together. Counts and displacements are read when noted, buffers later. Noted are collectives, messages, and the
 * functions that make communicators; all others act at once. */

/* Begins a group; groups may stand in groups. */
hfrResult_t hfrGroupStart(void);

/* Ends a group. The outermost starts what was noted: communicators to be joined first, then calls in their order, then splits; and waits
 * for all on blocking communicators that are not on a stream. Streams wait for the results of the group when all its calls have been put
 * on theirs, so that one stream may have calls of several communicators. Returns the first failure; hfrInProgress where calls on
 * non-blocking communicators are under way. If a call was refused while it was noted, nothing is started and its failure is returned.
 * hfrInvalidUsage: no group has begun. */
hfrResult_t hfrGroupEnd(void);

/* ---- operations --------------------------------------------------------------------------------------------------------------------- */

/* Makes an operation of comm: the sum of all inputs, each multiplied by the scalar first. *scalar is of datatype, and the operation is good
 * for that type alone. Unlike NCCL's, all ranks must give the same scalar: what differs is hfrInvalidUsage when it is used. With
 * hfrScalarDevice the host reads the scalar when a call that uses it is made (in a group: when it is noted), and waits for the call's stream
 * first. hfrInvalidArgument: a 64-bit integer that a double does not hold; hfrScalarDevice in a process without CUDA. */
hfrResult_t hfrRedOpCreatePreMulSum(hfrRedOp_t* op, void* scalar, hfrDataType_t datatype, hfrScalarResidence_t residence,
                                    hfrComm_t comm);

/* Forgets an operation of comm; calls that were started keep it. hfrInvalidArgument: no operation that comm has made. */
hfrResult_t hfrRedOpDestroy(hfrRedOp_t op, hfrComm_t comm);

/* ---- memory ------------------------------------------------------------------------------------------------------------------------- */

/* Gives size bytes, zeroed, from a page boundary on. They lie in the memory that the ranks of this node share, of this process's oldest
 * communicator with more than one rank that lives: its calls on them copy nothing in or out. Without one it is ordinary memory. It stays
 * good after the communicator has ended. A size of 0 gives NULL. It is host memory in any case: device memory is the driver's to give.
 * hfrSystemError: too little memory. */
hfrResult_t hfrMemAlloc(void** ptr, size_t size);

/* Gives back what hfrMemAlloc() gave; no call may be under way on it. NULL is hfrSuccess. hfrInvalidArgument: anything else. */
hfrResult_t hfrMemFree(void* ptr);

/* For programs written for NCCL. Memory of hfrMemAlloc() needs no registering; other memory is accepted, and is copied in and out as without.
 * *handle is for hfrCommDeregister(). hfrInvalidArgument: NULL, or a size of 0. */
hfrResult_t hfrCommRegister(hfrComm_t comm, void* buff, size_t size, void** handle);

/* Forgets a handle of hfrCommRegister(). hfrInvalidArgument: none of comm's. */
hfrResult_t hfrCommDeregister(hfrComm_t comm, void* handle);

/* ---- HFReduce's own shape ----------------------------------------------------------------------------------------------------------- *
 * Not NCCL's. Tensors are registered by name once; each step reduces them as they get ready, into one fused destination, where they lie one
 * behind the other in the order of registering. All ranks register the same and reduce in the same order. A reducer keeps its communicator's
 * connections until it is destroyed. */

/* Makes a reducer over comm for tensors of one type. */
hfrResult_t hfrReducerCreate(hfrReducer_t* reducer, hfrComm_t comm, hfrDataType_t datatype, hfrRedOp_t op);

/* Adds a tensor of count elements. hfrInvalidArgument: a name that is there, or is no UTF-8. */
hfrResult_t hfrReducerRegister(hfrReducer_t reducer, const char* name, size_t count);

/* Elements of all tensors: what the fused destination must hold. */
hfrResult_t hfrReducerTotal(hfrReducer_t reducer, size_t* total);

/* Where results go, from the next tensor on; memory of hfrMemAlloc() saves a copy, and for tensors on a device it is device or pinned
 * memory. It must be left alone until hfrReducerSynchronize(). NULL, as at the beginning: each result takes its tensor's place. */
hfrResult_t hfrReducerSetFusedDest(hfrReducer_t reducer, void* dest);

/* Starts reducing the tensor name from ptr; returns at once, with blocking communicators too. Device and pinned memory goes on the stream,
 * as everywhere. ptr must be left alone until hfrReducerSynchronize(); it is written only where there is no fused destination.
 * hfrInvalidArgument: no such tensor, another count. */
hfrResult_t hfrReducerAsyncReduce(hfrReducer_t reducer, hfrStream_t stream, const char* name, void* ptr, size_t count);

/* Waits for all that was started. What was started on streams the stream waits for, and not the host: pass the stream that works with the
 * results (NULL is the legacy default stream, if anything was on a stream). *names are the count names reduced since the last time, in
 * their order; they are the reducer's and good until it is synchronized again or destroyed. names and count may both be NULL. */
hfrResult_t hfrReducerSynchronize(hfrReducer_t reducer, hfrStream_t stream, const char* const** names, size_t* count);

/* Ends a reducer; waits for what was started. NULL is hfrSuccess. */
hfrResult_t hfrReducerDestroy(hfrReducer_t reducer);

#ifdef __cplusplus
}
#endif

#endif /* HFREDUCE_H_ */

/*
 * failures.c: what a program is told when something is wrong: an argument, a handle, a call that differs between ranks, a rank that dies, stalls,
 * aborts or never comes; and calls that do not block. Knows of the library what the header says. Invariant: every failure has a text that says
 * what it is about, on every rank, and what can go on does go on.
 */
#define _GNU_SOURCE
#include "ranks.h"

enum { RANKS = 4, MANY = 100000 };

/* The group works: on every rank, with the right result. */
static void works(hfrComm_t comm, int ranks) {
  int32_t one = 3;
  OK(hfrAllReduce(&one, &one, 1, hfrInt32, hfrSum, comm, NULL));
  CHECK(one == 3 * ranks, "the sum is %d", (int)one);
}

static void arguments(Rank* self) {
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {9};
  size_t eight[RANKS] = {8, 0, 0, 0}, none[RANKS] = {0, 0, 0, 0};
  hfrComm_t comm = self->comm, stray = (hfrComm_t)(void*)&a[0];
  int number, code, device = 0;
  void* at = NULL;
  OK(hfrGetVersion(&number));
  CHECK(number == HFR_VERSION_CODE, "version %d with the header of %d", number, HFR_VERSION_CODE);
  for (code = -1; code <= hfrNumResults; code++) {
    CHECK(strlen(hfrGetErrorString((hfrResult_t)code)) > 7, "no words for %d", code);
  }
  CHECK(hfrGetLastError(comm)[0] == '\0', "a failure before any: %s", hfrGetLastError(comm));
  REFUSED("communicator is NULL", hfrAllReduce(a, b, 8, hfrFloat, hfrSum, NULL, NULL));
  REFUSED("no communicator that lives", hfrAllReduce(a, b, 8, hfrFloat, hfrSum, stray, NULL));
  REFUSED("no communicator that lives", hfrCommDestroy(stray));
  CHECK(hfrGetLastError(comm)[0] == '\0', "another's failure: %s", hfrGetLastError(comm));
  REFUSED("sendbuff is NULL", hfrAllReduce(NULL, b, 8, hfrFloat, hfrSum, comm, NULL));
  CHECK(strstr(hfrGetLastError(comm), "hfrAllReduce: sendbuff is NULL") != NULL, "%s", hfrGetLastError(comm));
  REFUSED("recvbuff is NULL", hfrAllReduce(a, NULL, 8, hfrFloat, hfrSum, comm, NULL));
  REFUSED("-1 is no hfrDataType_t", hfrAllReduce(a, b, 8, (hfrDataType_t)-1, hfrSum, comm, NULL));
  REFUSED("5 is no hfrRedOp_t", hfrAllReduce(a, b, 8, hfrFloat, hfrNumOps, comm, NULL));
  REFUSED("stream is not NULL", hfrAllReduce(a, b, 8, hfrFloat, hfrSum, comm, &a));
  REFUSED("more than memory", hfrAllReduce(a, b, SIZE_MAX / 4 + 1, hfrFloat, hfrSum, comm, NULL));
  REFUSED("more than memory", hfrAllGather(a, b, SIZE_MAX / 16, hfrFloat, comm, NULL));
  REFUSED("band", hfrAllReduce(a, b, 8, hfrFloat, hfrBand, comm, NULL));
  REFUSED("root 4", hfrBcast(a, 8, hfrFloat, RANKS, comm, NULL));
  REFUSED("root -1", hfrReduce(a, b, 8, hfrFloat, hfrSum, -1, comm, NULL));
  REFUSED("peer 4", hfrSend(a, 8, hfrFloat, RANKS, comm, NULL));
  REFUSED("recvbuff is NULL", hfrRecv(NULL, 8, hfrFloat, 0, comm, NULL));
  REFUSED("sendbuff's counts", hfrAlltoAllv(a, NULL, none, b, none, none, hfrFloat, comm, NULL));
  REFUSED("sendbuff is NULL", hfrAlltoAllv(NULL, eight, none, b, none, none, hfrFloat, comm, NULL));
  REFUSED("same memory", hfrAlltoAll(a, a, 2, hfrFloat, comm, NULL));
  if (self->rank == 2) REFUSED("sendbuff is NULL", hfrScatter(NULL, b, 2, hfrFloat, 2, comm, NULL));
  if (self->rank == 1) REFUSED("recvbuff is NULL", hfrGather(a, NULL, 2, hfrFloat, 1, comm, NULL));
  REFUSED("count is NULL", hfrCommCount(comm, NULL));
  REFUSED("asyncError is NULL", hfrCommGetAsyncError(comm, NULL));
  REFUSED("version is NULL", hfrGetVersion(NULL));
  REFUSED("uniqueId is NULL", hfrGetUniqueId(NULL));
  REFUSED("ptr is NULL", hfrMemAlloc(NULL, 8));
  FAILS(hfrSystemError, "", hfrMemAlloc(&at, SIZE_MAX / 4));
  REFUSED("0 bytes", hfrCommRegister(comm, a, 0, &at));
  REFUSED("handle is NULL", hfrCommRegister(comm, a, sizeof a, NULL));
  FAILS(hfrInvalidUsage, "hfrGroupStart first", hfrGroupEnd());
  /* Nothing of nothing is a call like any other. */
  OK(hfrAllReduce(NULL, NULL, 0, hfrFloat, hfrSum, comm, NULL));
  OK(hfrAllGather(NULL, NULL, 0, hfrFloat, comm, NULL));
  OK(hfrAlltoAllv(NULL, none, none, NULL, none, none, hfrFloat, comm, NULL));
  if (self->rank == 0) OK(hfrSend(NULL, 0, hfrFloat, 1, comm, NULL));
  if (self->rank == 1) OK(hfrRecv(NULL, 0, hfrFloat, 0, comm, NULL));
  OK(hfrCommCuDevice(comm, &device));
  CHECK(device == -1, "device %d", device);
  works(comm, RANKS);
}

static void joining(Rank* self) {
  hfrComm_t comm = NULL, again;
  hfrConfig_t config = HFR_CONFIG_INITIALIZER, wrong = HFR_CONFIG_INITIALIZER;
  hfrUniqueId nothing;
  hfrReducer_t reducer;
  memset(&nothing, 7, sizeof nothing);
  REFUSED("rank 4 in a group of 4", hfrCommInitRank(&comm, RANKS, self->id, RANKS));
  REFUSED("rank -1", hfrCommInitRank(&comm, RANKS, self->id, -1));
  REFUSED("rank 0 in a group of 0", hfrCommInitRank(&comm, 0, self->id, 0));
  REFUSED("commId is no identity", hfrCommInitRank(&comm, RANKS, nothing, self->rank));
  REFUSED("comm is NULL", hfrCommInitRank(NULL, RANKS, self->id, self->rank));
  wrong.magic = 0;
  REFUSED("HFR_CONFIG_INITIALIZER", hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &wrong));
  wrong = config;
  wrong.size += sizeof(int);
  REFUSED("later hfreduce.h", hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &wrong));
  wrong = config;
  wrong.blocking = 2;
  REFUSED("blocking is 2", hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &wrong));
  CHECK(comm == NULL, "a handle of nothing");
  config.timeoutMs = 20000;
  config.connectTimeoutMs = 30000;
  OK(hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  REFUSED("more than blocking", hfrCommSplit(comm, 0, 0, &again, &config));
  OK(hfrReducerCreate(&reducer, comm, hfrInt32, hfrSum));
  works(comm, RANKS);
  again = comm;
  OK(hfrReducerDestroy(reducer));
  OK(hfrCommDestroy(comm));
  REFUSED("no communicator that lives", hfrCommDestroy(again));
  REFUSED("no communicator that lives", hfrBarrier(again, NULL));
  REFUSED("no communicator that lives", hfrCommSplit(again, 0, 0, &comm, NULL));
  REFUSED("no communicator that lives", hfrReducerCreate(&reducer, again, hfrInt32, hfrSum));
  OK(hfrCommDestroy(NULL));
  OK(hfrCommAbort(NULL));
  OK(hfrReducerDestroy(NULL));
}

/* The group has failed with code and a text that has word; it stays so, in the same words. */
static void failed(hfrComm_t comm, hfrResult_t code, const char* word) {
  static char first[2000];
  int32_t one = 1;
  hfrResult_t state;
  CHECK(strstr(hfrGetLastError(comm), word) != NULL, "no `%s` in: %s", word, hfrGetLastError(comm));
  strncpy(first, hfrGetLastError(comm), sizeof first - 1);
  EXPECT(code, hfrAllReduce(&one, &one, 1, hfrInt32, hfrSum, comm, NULL));
  CHECK(strcmp(hfrGetLastError(comm), first) == 0, "first: %s\nthen: %s", first, hfrGetLastError(comm));
  EXPECT(code, hfrBarrier(comm, NULL));
  state = settled(comm);
  CHECK(state == code, "the state is %s", hfrGetErrorString(state));
}

static void other_count(Rank* self) {
  int32_t a[10] = {5};
  EXPECT(hfrInvalidUsage, hfrAllReduce(a, a, self->rank == 1 ? 9 : 10, hfrInt32, hfrSum, self->comm, NULL));
  failed(self->comm, hfrInvalidUsage, "rank");
}

static void other_type(Rank* self) {
  int64_t a[10] = {5};
  hfrDataType_t type = self->rank == 3 ? hfrInt64 : hfrFloat64;
  EXPECT(hfrInvalidUsage, hfrAllReduce(a, a, 10, type, hfrSum, self->comm, NULL));
  failed(self->comm, hfrInvalidUsage, "int64");
}

static void other_factor(Rank* self) {
  float factor = self->rank == 0 ? 2.0f : 3.0f, one = 1.0f;
  hfrRedOp_t op;
  OK(hfrRedOpCreatePreMulSum(&op, &factor, hfrFloat32, hfrScalarHostImmediate, self->comm));
  EXPECT(hfrInvalidUsage, hfrAllReduce(&one, &one, 1, hfrFloat32, op, self->comm, NULL));
  failed(self->comm, hfrInvalidUsage, "mulsum");
}

static void killed(Rank* self) {
  int32_t* a = (int32_t*)calloc(MANY, sizeof *a);
  works(self->comm, RANKS);
  behind_all(self, 2);
  if (self->rank == 2) raise(SIGKILL);
  EXPECT(hfrRemoteError, hfrAllReduce(a, a, MANY, hfrInt32, hfrBxor, self->comm, NULL));
  failed(self->comm, hfrRemoteError, "rank 2");
  free(a);
}

static void killed_sender(Rank* self) {
  int32_t a[10] = {1};
  works(self->comm, RANKS);
  behind_all(self, 2);
  if (self->rank == 2) {
    rest(300);
    raise(SIGKILL);
  }
  EXPECT(hfrRemoteError, hfrRecv(a, 10, hfrInt32, 2, self->comm, NULL));
  CHECK(strstr(hfrGetLastError(self->comm), "rank 2") != NULL, "%s", hfrGetLastError(self->comm));
}

static void aborted(Rank* self) {
  int32_t a = 1;
  works(self->comm, RANKS);
  behind_all(self, 0);
  if (self->rank == 0) {
    rest(200);
    OK(hfrCommAbort(self->comm));
    REFUSED("no communicator that lives", hfrBarrier(self->comm, NULL));
    _exit(0);
  }
  EXPECT(hfrRemoteError, hfrAllReduce(&a, &a, 1, hfrInt32, hfrSum, self->comm, NULL));
  failed(self->comm, hfrRemoteError, "abort");
}

static void stalled(Rank* self) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  hfrComm_t comm;
  config.timeoutMs = 1500;
  OK(hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  works(comm, RANKS);
  behind_all(self, 1);
  if (self->rank == 1) rest(5000);
  EXPECT(hfrRemoteError, hfrBarrier(comm, NULL));
  failed(comm, hfrRemoteError, "rank 1");
  OK(hfrCommDestroy(comm));
}

static void never_come(Rank* self) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  hfrComm_t comm = NULL;
  config.connectTimeoutMs = 1000;
  if (self->rank == 3) return;
  FAILS(hfrSystemError, "rank", hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  CHECK(comm == NULL, "a handle of nothing");
  config.blocking = 0;
  EXPECT(hfrInProgress, hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  CHECK(settled(comm) == hfrSystemError, "it came to be");
  CHECK(strstr(hfrGetLastError(comm), "rank") != NULL, "%s", hfrGetLastError(comm));
  EXPECT(hfrSystemError, hfrBarrier(comm, NULL));
  OK(hfrCommDestroy(comm));
  /* Given up while others are waited for: at once. */
  config.connectTimeoutMs = 1000 * LIFETIME;
  EXPECT(hfrInProgress, hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  OK(hfrCommAbort(comm));
  REFUSED("no communicator that lives", hfrCommAbort(comm));
}

/* A child of a rank must not use what is its parent's; the parent goes on. */
static void forked(Rank* self) {
  int status = -1;
  pid_t child;
  works(self->comm, RANKS);
  fflush(NULL);
  child = fork();
  if (child == 0) {
    int32_t one = 1;
    hfrResult_t state;
    alarm(20);
    REFUSED("fork", hfrAllReduce(&one, &one, 1, hfrInt32, hfrSum, self->comm, NULL));
    REFUSED("fork", hfrSend(&one, 1, hfrInt32, (self->rank + 1) % RANKS, self->comm, NULL));
    REFUSED("fork", hfrCommGetAsyncError(self->comm, &state));
    REFUSED("fork", hfrCommDestroy(self->comm));
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x", (unsigned)status);
  works(self->comm, RANKS);
}

static void not_blocking(Rank* self) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  hfrComm_t comm = NULL, half = NULL;
  hfrResult_t code, state;
  int32_t *a = (int32_t*)malloc(MANY * sizeof *a), sums[5], in = 0, out = self->rank + 1;
  int i, next = (self->rank + 1) % RANKS, before = (self->rank + 3) % RANKS;
  config.blocking = 0;
  if (self->rank == 0) rest(200);
  EXPECT(hfrInProgress, hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  if (self->rank != 0) FAILS(hfrInvalidUsage, "still starts", hfrBarrier(comm, NULL));
  CHECK(settled(comm) == hfrSuccess, "%s", hfrGetLastError(comm));

  for (i = 0; i < MANY; i++) a[i] = i + self->rank;
  EXPECT(hfrInProgress, hfrAllReduce(a, a, MANY, hfrInt32, hfrSum, comm, NULL));
  for (i = 0; i < 5; i++) {
    sums[i] = (i + 1) * (self->rank + 1);
    EXPECT(hfrInProgress, hfrAllReduce(&sums[i], &sums[i], 1, hfrInt32, hfrMax, comm, NULL));
  }
  CHECK(settled(comm) == hfrSuccess, "%s", hfrGetLastError(comm));
  for (i = 0; i < MANY; i++) CHECK(a[i] == 4 * i + 6, "element %d is %d", i, (int)a[i]);
  for (i = 0; i < 5; i++) CHECK(sums[i] == 4 * (i + 1), "%d: %d", i, (int)sums[i]);

  OK(hfrGroupStart());
  OK(hfrSend(&out, 1, hfrInt32, next, comm, NULL));
  OK(hfrRecv(&in, 1, hfrInt32, before, comm, NULL));
  EXPECT(hfrInProgress, hfrGroupEnd());
  CHECK(settled(comm) == hfrSuccess && in == before + 1, "%d came: %s", (int)in, hfrGetLastError(comm));

  /* An argument that the library refuses: at once, or when asked, and then once. */
  code = hfrAllReduce(a, a, 10, hfrFloat, hfrBor, comm, NULL);
  if (code == hfrInProgress) code = settled(comm);
  CHECK(code == hfrInvalidArgument && strstr(hfrGetLastError(comm), "bor") != NULL, "%s", hfrGetLastError(comm));
  OK(hfrCommGetAsyncError(comm, &state));
  CHECK(state == hfrSuccess, "told twice");

  /* Ranks 1 to 3 come late to the split: rank 0 sees it under way. */
  if (self->rank != 0) rest(300);
  EXPECT(hfrInProgress, hfrCommSplit(comm, self->rank % 2, 0, &half, NULL));
  if (self->rank == 0) FAILS(hfrInvalidUsage, "split", hfrBarrier(comm, NULL));
  CHECK(settled(comm) == hfrSuccess && settled(half) == hfrSuccess, "%s", hfrGetLastError(half));
  EXPECT(hfrInProgress, hfrAllReduce(&out, &in, 1, hfrInt32, hfrSum, half, NULL));
  CHECK(settled(half) == hfrSuccess && in == 2 * (self->rank % 2) + 4, "the half's sum is %d", (int)in);
  EXPECT(hfrInProgress, hfrCommFinalize(half));
  CHECK(settled(half) == hfrSuccess, "%s", hfrGetLastError(half));
  OK(hfrCommDestroy(half));

  /* Destroyed with a call under way: that ends first. */
  EXPECT(hfrInProgress, hfrAllReduce(a, a, MANY, hfrInt32, hfrMin, comm, NULL));
  OK(hfrCommDestroy(comm));
  for (i = 0; i < MANY; i++) CHECK(a[i] == 4 * i + 6, "element %d is %d", i, (int)a[i]);
  free(a);
}

/* A failure of the group that nobody waits for is told when asked. */
static void not_blocking_killed(Rank* self) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  hfrResult_t started;
  hfrComm_t comm = NULL;
  int32_t one = 1;
  config.blocking = 0;
  EXPECT(hfrInProgress, hfrCommInitRankConfig(&comm, RANKS, self->id, self->rank, &config));
  CHECK(settled(comm) == hfrSuccess, "%s", hfrGetLastError(comm));
  EXPECT(hfrInProgress, hfrBarrier(comm, NULL));
  CHECK(settled(comm) == hfrSuccess, "%s", hfrGetLastError(comm));
  behind_all(self, 2);
  if (self->rank == 2) raise(SIGKILL);
  /* Its end may be known already. */
  started = hfrAllReduce(&one, &one, 1, hfrInt32, hfrSum, comm, NULL);
  CHECK(started == hfrInProgress || started == hfrRemoteError, "it is answered by %s", hfrGetErrorString(started));
  CHECK(settled(comm) == hfrRemoteError, "it succeeded");
  CHECK(strstr(hfrGetLastError(comm), "rank 2") != NULL, "%s", hfrGetLastError(comm));
  CHECK(settled(comm) == hfrRemoteError, "it does not stay");
  OK(hfrCommDestroy(comm));
}

/* A number below limit; the same ones in every run. */
static unsigned next_number(unsigned limit) {
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(state >> 33) % limit;
}

/* Arguments at random, good ones and bad ones: every call returns, with a text where it fails, and the group of one works afterwards. */
static void nonsense(Rank* self) {
  static const size_t COUNT[] = {0, 1, 5, 8, SIZE_MAX, SIZE_MAX / 2 + 1};
  static char buffers[2][64];
  hfrComm_t good = NULL, stale = NULL, comms[4];
  size_t zero[1] = {0}, eight[1] = {8}, i, refused = 0, made = 0;
  OK(hfrCommInitRank(&good, 1, self->id, 0));
  OK(hfrCommSplit(good, 0, 0, &stale, NULL));
  OK(hfrCommDestroy(stale));
  comms[0] = comms[3] = good;
  comms[1] = stale;
  comms[2] = (hfrComm_t)(void*)buffers;
  for (i = 0; i < 100000; i++) {
    hfrComm_t comm = next_number(9) == 0 ? NULL : comms[next_number(4)];
    hfrStream_t stream = next_number(9) == 0 ? buffers : NULL;
    void* in = next_number(9) == 0 ? NULL : buffers[0];
    void* out = next_number(9) == 0 ? NULL : buffers[1];
    hfrDataType_t type = (hfrDataType_t)((int)next_number(15) - 1);
    hfrRedOp_t op = next_number(4) == 0 ? (hfrRedOp_t)(hfrBand + next_number(4)) : (hfrRedOp_t)next_number(7);
    int root = next_number(5) == 0 ? (int)next_number(3) - 1 : 0;
    size_t count = COUNT[next_number(sizeof COUNT / sizeof COUNT[0])];
    const size_t *first = next_number(9) == 0 ? NULL : zero, *counts = next_number(3) == 0 ? &count : eight;
    hfrResult_t result;
    switch (next_number(14)) {
      case 0: result = hfrAllReduce(in, out, count, type, op, comm, stream); break;
      case 1: result = hfrReduceScatter(in, out, count, type, op, comm, stream); break;
      case 2: result = hfrAllGather(in, out, count, type, comm, stream); break;
      case 3: result = hfrBroadcast(in, out, count, type, root, comm, stream); break;
      case 4: result = hfrBcast(in, count, type, root, comm, stream); break;
      case 5: result = hfrReduce(in, out, count, type, op, root, comm, stream); break;
      case 6: result = hfrAlltoAll(in, out, count, type, comm, stream); break;
      case 7: result = hfrAlltoAllv(in, counts, first, out, counts, zero, type, comm, stream); break;
      case 8: result = hfrGather(in, out, count, type, root, comm, stream); break;
      case 9: result = hfrScatter(in, out, count, type, root, comm, stream); break;
      case 10: result = hfrSend(in, count, type, root, comm, stream); break;
      case 11: result = hfrRecv(out, count, type, root, comm, stream); break;
      case 12: result = hfrRedOpDestroy(op, comm); break;
      default: result = hfrMemFree(in); break;
    }
    CHECK(result == hfrSuccess || result == hfrInvalidArgument, "call %zu: %s: %s", i, hfrGetErrorString(result),
          hfrGetLastError(NULL));
    refused += result == hfrInvalidArgument;
    made += result == hfrSuccess;
  }
  CHECK(refused > 10000 && made > 1000, "%zu calls were refused, %zu made", refused, made);
  works(good, 1);
  OK(hfrCommDestroy(good));
}

int main(int argc, char** argv) {
  static const Case CASES[] = {
      {"arguments", RANKS, 1, 0, -1, arguments},
      {"nonsense", 1, 1, 1, -1, nonsense},
      {"joining", RANKS, 1, 1, -1, joining},
      {"other_count", RANKS, 1, 0, -1, other_count},
      {"other_count", RANKS, 2, 0, -1, other_count},
      {"other_type", RANKS, 1, 0, -1, other_type},
      {"other_factor", RANKS, 2, 0, -1, other_factor},
      {"killed", RANKS, 1, 0, 2, killed},
      {"killed", RANKS, 2, 0, 2, killed},
      {"killed_sender", RANKS, 2, 0, 2, killed_sender},
      {"aborted", RANKS, 2, 0, -1, aborted},
      {"stalled", RANKS, 2, 1, -1, stalled},
      {"never_come", RANKS, 1, 1, -1, never_come},
      {"forked", RANKS, 2, 0, -1, forked},
      {"not_blocking", RANKS, 1, 1, -1, not_blocking},
      {"not_blocking", RANKS, 2, 1, -1, not_blocking},
      {"not_blocking_killed", RANKS, 2, 1, 2, not_blocking_killed},
  };
  return run_cases(CASES, sizeof CASES / sizeof CASES[0], argc > 1 ? argv[1] : NULL);
}

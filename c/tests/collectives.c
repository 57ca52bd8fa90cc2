/*
 * collectives.c: every function that moves data, from C99, with inputs whose results are exact, on one node and on two. Knows of the library what
 * the header says. Invariant: no input is 0 everywhere, and every element of every result is compared.
 */
#define _GNU_SOURCE
#include "ranks.h"

/* What rank has at i: small, so that sums and products of four are exact in every type used. */
static int input(int rank, size_t i) { return (int)((i * 7 + (size_t)rank * 3) % 5) + 1; }

static const size_t COUNTS[] = {0, 1, 3, 1003, 300000};
enum { N_COUNTS = sizeof COUNTS / sizeof COUNTS[0], MOST = 300000, RANKS = 4 };

static int32_t* ints(size_t count) {
  int32_t* at = (int32_t*)malloc((count + 1) * sizeof *at);
  size_t i;
  CHECK(at != NULL, "no memory");
  for (i = 0; i <= count; i++) at[i] = -77;
  return at;
}

/* Fills blocks of count elements as ranks first, first + 1, ... have them, each from element offset on. */
static void fill(int32_t* at, size_t count, int rank, size_t offset) {
  size_t i;
  for (i = 0; i < count; i++) at[i] = input(rank, offset + i);
}

static void is(const int32_t* at, size_t count, int rank, size_t offset, const char* what) {
  size_t i;
  for (i = 0; i < count; i++) {
    CHECK(at[i] == input(rank, offset + i), "%s: element %zu of %zu is %d", what, i, count, (int)at[i]);
  }
}

static int32_t combined(hfrRedOp_t op, size_t i) {
  int32_t result = input(0, i), rank;
  for (rank = 1; rank < RANKS; rank++) {
    int32_t other = input(rank, i);
    switch ((int)op) {
      case hfrSum: case hfrAvg: result += other; break;
      case hfrProd: result *= other; break;
      case hfrMax: result = result > other ? result : other; break;
      case hfrMin: result = result < other ? result : other; break;
      case hfrBand: result &= other; break;
      case hfrBor: result |= other; break;
      default: result ^= other; break;
    }
  }
  return op == hfrAvg ? result / RANKS : result;
}

static void all_reduce(Rank* self) {
  static const hfrRedOp_t ops[] = {hfrSum, hfrProd, hfrMax, hfrMin, hfrAvg, hfrBand, hfrBor, hfrBxor};
  size_t c, o, i;
  for (c = 0; c < N_COUNTS; c++) {
    size_t count = COUNTS[c];
    int32_t *from = ints(count), *to = ints(count);
    for (o = 0; o < sizeof ops / sizeof ops[0]; o++) {
      fill(from, count, self->rank, 0);
      OK(hfrAllReduce(from, to, count, hfrInt32, ops[o], self->comm, NULL));
      is(from, count, self->rank, 0, "the input");
      OK(hfrAllReduce(from, from, count, hfrInt, ops[o], self->comm, NULL));
      for (i = 0; i < count; i++) {
        int32_t right = combined(ops[o], i);
        CHECK(to[i] == right && from[i] == right, "op %d: element %zu is %d and %d", (int)ops[o], i, (int)to[i], (int)from[i]);
      }
      CHECK(to[count] == -77, "written past the end");
    }
    free(from);
    free(to);
  }
}

/* Encodes a small integer in each type, by hand where C has no such type: the sum of 2, 4, 4 and 6 is 16. */
static void every_type(Rank* self) {
  static const int mine[RANKS] = {2, 4, 4, 6};
  static const uint16_t half[] = {0x4000, 0x4400, 0x4400, 0x4600, 0x4c00};
  static const uint16_t bf16[] = {0x4000, 0x4080, 0x4080, 0x40c0, 0x4180};
  static const uint8_t e4m3[] = {0x40, 0x48, 0x48, 0x4c, 0x58};
  static const uint8_t e5m2[] = {0x40, 0x44, 0x44, 0x46, 0x4c};
  int type;
  for (type = 0; type < hfrNumTypes; type++) {
    unsigned char from[8 * 100], to[8 * 100], right[8];
    int i, k;
    size_t size = 0;
    for (k = 0; k < 2; k++) {
      int which = k == 0 ? self->rank : RANKS;
      int64_t whole = k == 0 ? mine[self->rank] : 16;
      float single = (float)whole;
      double twice = (double)whole;
      const void* at = &whole; /* little-endian: the first bytes are the smaller integers */
      switch (type) {
        case hfrInt8: case hfrUint8: size = 1; break;
        case hfrInt32: case hfrUint32: size = 4; break;
        case hfrInt64: case hfrUint64: size = 8; break;
        case hfrFloat16: size = 2; at = &half[which]; break;
        case hfrBfloat16: size = 2; at = &bf16[which]; break;
        case hfrFloat8e4m3: size = 1; at = &e4m3[which]; break;
        case hfrFloat8e5m2: size = 1; at = &e5m2[which]; break;
        case hfrFloat32: size = 4; at = &single; break;
        default: size = 8; at = &twice; break;
      }
      memcpy(right, at, size);
      for (i = 0; k == 0 && i < 100; i++) memcpy(from + (size_t)i * size, at, size);
    }
    memset(to, 0xee, sizeof to);
    OK(hfrAllReduce(from, to, 100, (hfrDataType_t)type, hfrSum, self->comm, NULL));
    for (i = 0; i < 100; i++) CHECK(memcmp(to + (size_t)i * size, right, size) == 0, "type %d, element %d", type, i);
  }
}

static void shares(Rank* self) {
  size_t c, i;
  int r;
  for (c = 0; c < N_COUNTS; c++) {
    size_t count = COUNTS[c] / RANKS, whole = count * RANKS;
    int32_t *wide = ints(whole), *narrow = ints(count), *other = ints(whole);
    size_t own = (size_t)self->rank * count;
    fill(wide, whole, self->rank, 0);
    OK(hfrReduceScatter(wide, narrow, count, hfrInt32, hfrSum, self->comm, NULL));
    OK(hfrReduceScatter(wide, wide + own, count, hfrInt32, hfrMax, self->comm, NULL));
    for (i = 0; i < count; i++) {
      CHECK(narrow[i] == combined(hfrSum, own + i), "reduce_scatter: element %zu is %d", i, (int)narrow[i]);
      CHECK(wide[own + i] == combined(hfrMax, own + i), "in place: element %zu is %d", i, (int)wide[own + i]);
    }
    fill(narrow, count, self->rank, 0);
    OK(hfrAllGather(narrow, wide, count, hfrInt32, self->comm, NULL));
    fill(other + own, count, self->rank, 0);
    OK(hfrAllGather(other + own, other, count, hfrInt32, self->comm, NULL));
    for (r = 0; r < RANKS; r++) {
      is(wide + (size_t)r * count, count, r, 0, "all_gather");
      is(other + (size_t)r * count, count, r, 0, "all_gather in place");
      fill(wide + (size_t)r * count, count, self->rank, 100 * (size_t)r);
    }
    OK(hfrAlltoAll(wide, other, count, hfrInt32, self->comm, NULL));
    for (r = 0; r < RANKS; r++) is(other + (size_t)r * count, count, r, 100 * (size_t)self->rank, "all_to_all");
    CHECK(wide[whole] == -77 && other[whole] == -77 && narrow[count] == -77, "written past an end");
    free(wide);
    free(narrow);
    free(other);
  }
}

static void roots(Rank* self) {
  size_t c, i;
  int root, r;
  for (c = 0; c < N_COUNTS; c++) {
    size_t count = COUNTS[c] / RANKS;
    int32_t *one = ints(count), *two = ints(count), *wide = ints(count * RANKS);
    for (root = 0; root < RANKS; root++) {
      int here = root == self->rank;
      size_t own = (size_t)root * count;
      fill(one, count, self->rank, 0);
      OK(hfrBroadcast(here ? one : NULL, two, count, hfrInt32, root, self->comm, NULL));
      is(two, count, root, 0, "broadcast");
      OK(hfrBcast(one, count, hfrInt32, root, self->comm, NULL));
      is(one, count, root, 0, "bcast");

      fill(one, count, self->rank, 0);
      OK(hfrReduce(one, here ? two : NULL, count, hfrInt32, hfrSum, root, self->comm, NULL));
      for (i = 0; here && i < count; i++) CHECK(two[i] == combined(hfrSum, i), "reduce: element %zu is %d", i, (int)two[i]);
      is(one, count, self->rank, 0, "reduce's input");
      OK(hfrReduce(one, one, count, hfrInt32, hfrProd, root, self->comm, NULL));
      for (i = 0; here && i < count; i++) CHECK(one[i] == combined(hfrProd, i), "reduce in place: element %zu is %d", i, (int)one[i]);

      fill(one, count, self->rank, 5);
      OK(hfrGather(one, here ? wide : NULL, count, hfrInt32, root, self->comm, NULL));
      for (r = 0; here && r < RANKS; r++) is(wide + (size_t)r * count, count, r, 5, "gather");
      for (r = 0; here && r < RANKS; r++) fill(wide + (size_t)r * count, count, r, 8);
      OK(hfrScatter(here ? wide : NULL, two, count, hfrInt32, root, self->comm, NULL));
      is(two, count, self->rank, 8, "scatter");
      OK(hfrScatter(here ? wide : NULL, here ? wide + own : two, count, hfrInt32, root, self->comm, NULL));
      is(here ? wide + own : two, count, self->rank, 8, "scatter in place");
      OK(hfrGather(here ? wide + own : two, here ? wide : NULL, count, hfrInt32, root, self->comm, NULL));
      for (r = 0; here && r < RANKS; r++) is(wide + (size_t)r * count, count, r, 8, "gather in place");
    }
    OK(hfrBarrier(self->comm, NULL));
    free(one);
    free(two);
    free(wide);
  }
}

/* Rank s sends (s + 2 d) * 50 elements to rank d; blocks lie in reverse order, with gaps. */
static void all_to_all_v(Rank* self) {
  size_t sent[RANKS], received[RANKS], from[RANKS], into[RANKS], end = 0, start = 0;
  int32_t *in, *out;
  int r;
  for (r = RANKS - 1; r >= 0; r--) {
    sent[r] = (size_t)(self->rank + 2 * r) * 50;
    received[r] = (size_t)(r + 2 * self->rank) * 50;
    from[r] = end + 3;
    end = from[r] + sent[r];
    into[r] = start + 1;
    start = into[r] + received[r];
  }
  in = ints(end);
  out = ints(start);
  for (r = 0; r < RANKS; r++) fill(in + from[r], sent[r], self->rank, (size_t)r);
  OK(hfrAlltoAllv(in, sent, from, out, received, into, hfrInt32, self->comm, NULL));
  for (r = 0; r < RANKS; r++) {
    is(out + into[r], received[r], r, (size_t)self->rank, "all_to_all_v");
    CHECK(out[into[r] - 1] == -77, "written in front of block %d", r);
  }
  CHECK(out[start] == -77, "written past the end");

  into[1] = into[2];
  REFUSED("overlap", hfrAlltoAllv(in, sent, from, out, received, into, hfrInt32, self->comm, NULL));
  into[1] = start + 1;
  /* Rank 0 alone expects something else: nobody gets anything, and everybody can go on. */
  received[1] += self->rank == 0;
  EXPECT(hfrInvalidArgument, hfrAlltoAllv(in, sent, from, out, received, into, hfrInt32, self->comm, NULL));
  OK(hfrBarrier(self->comm, NULL));
  free(in);
  free(out);
}

static void messages(Rank* self) {
  int next = (self->rank + 1) % RANKS, before = (self->rank + RANKS - 1) % RANKS, r;
  int32_t *out = ints(MOST), *in = ints(MOST), *wide = ints(RANKS * 100), *back = ints(RANKS * 100);
  fill(out, MOST, self->rank, 0);
  OK(hfrGroupStart());
  OK(hfrSend(out, MOST, hfrInt32, next, self->comm, NULL));
  OK(hfrRecv(in, MOST, hfrInt32, before, self->comm, NULL));
  CHECK(in[0] == -77, "a group ran before its end");
  OK(hfrGroupEnd());
  is(in, MOST, before, 0, "ring");

  /* To everybody, the own rank too, as programs write all_to_all with messages. */
  OK(hfrGroupStart());
  for (r = 0; r < RANKS; r++) {
    fill(wide + 100 * r, 100, self->rank, (size_t)r);
    OK(hfrSend(wide + 100 * r, 100, hfrInt32, r, self->comm, NULL));
    OK(hfrRecv(back + 100 * r, 100, hfrInt32, r, self->comm, NULL));
  }
  OK(hfrGroupEnd());
  for (r = 0; r < RANKS; r++) is(back + 100 * r, 100, r, (size_t)self->rank, "to everybody");

  /* Outside a group, one way, in order. */
  for (r = 0; r < 3; r++) {
    fill(out, 10, 1, (size_t)r);
    if (self->rank == 1) OK(hfrSend(out, 10, hfrInt32, 2, self->comm, NULL));
    if (self->rank == 2) OK(hfrRecv(in, 10, hfrInt32, 1, self->comm, NULL));
    if (self->rank == 2) is(in, 10, 1, (size_t)r, "in order");
  }
  REFUSED("own rank", hfrSend(out, 10, hfrInt32, self->rank, self->comm, NULL));
  OK(hfrGroupStart());
  OK(hfrSend(out, 10, hfrInt32, self->rank, self->comm, NULL));
  OK(hfrRecv(in, 9, hfrInt32, self->rank, self->comm, NULL));
  REFUSED("make them agree", hfrGroupEnd());
  OK(hfrBarrier(self->comm, NULL));
  free(out);
  free(in);
  free(wide);
  free(back);
}

static void groups(Rank* self) {
  hfrComm_t half = NULL;
  int32_t a[50], b[50], c[50];
  size_t i;
  int other = self->rank ^ 1;
  OK(hfrCommSplit(self->comm, self->rank / 2, 0, &half, NULL));
  fill(a, 50, self->rank, 0);
  fill(b, 50, self->rank, 1);
  OK(hfrGroupStart());
  OK(hfrAllReduce(a, a, 50, hfrInt32, hfrSum, self->comm, NULL));
  OK(hfrGroupStart());
  OK(hfrAllReduce(b, b, 50, hfrInt32, hfrProd, half, NULL));
  OK(hfrGroupEnd());
  OK(hfrRecv(c, 50, hfrInt32, other, self->comm, NULL));
  OK(hfrSend(c + 1, 0, hfrInt32, other, self->comm, NULL));
  OK(hfrRecv(NULL, 0, hfrInt32, other, self->comm, NULL));
  CHECK(a[0] == input(self->rank, 0) && b[0] == input(self->rank, 1), "a group ran before its end");
  REFUSED("hfrAllReduce: 12 is no", hfrAllReduce(a, a, 50, (hfrDataType_t)12, hfrSum, self->comm, NULL));
  REFUSED("12 is no hfrDataType_t", hfrGroupEnd());
  CHECK(a[0] == input(self->rank, 0) && b[0] == input(self->rank, 1), "a refused group ran");
  EXPECT(hfrInvalidUsage, hfrGroupEnd());

  OK(hfrGroupStart());
  OK(hfrAllReduce(a, a, 50, hfrInt32, hfrSum, self->comm, NULL));
  OK(hfrAllReduce(b, b, 50, hfrInt32, hfrProd, half, NULL));
  OK(hfrBroadcast(a, c, 50, hfrInt32, 3, self->comm, NULL));
  OK(hfrGroupEnd());
  for (i = 0; i < 50; i++) {
    int lower = self->rank & 2;
    CHECK(a[i] == combined(hfrSum, i) && c[i] == a[i], "element %zu is %d and %d", i, (int)a[i], (int)c[i]);
    CHECK(b[i] == input(lower, i + 1) * input(lower + 1, i + 1), "the half's element %zu is %d", i, (int)b[i]);
  }
  OK(hfrCommDestroy(half));
}

static void splits(Rank* self) {
  hfrComm_t turned = NULL, pair[2] = {NULL, NULL};
  int rank = -1, count = -1, device = 0, k;
  int32_t own[RANKS], all[RANKS];
  /* All in reverse order. */
  OK(hfrCommSplit(self->comm, 7, -self->rank, &turned, NULL));
  OK(hfrCommUserRank(turned, &rank));
  OK(hfrCommCount(turned, &count));
  OK(hfrCommCuDevice(turned, &device));
  CHECK(rank == RANKS - 1 - self->rank && count == RANKS && device == -1, "rank %d of %d, device %d", rank, count, device);
  own[0] = self->rank;
  OK(hfrAllGather(own, all, 1, hfrInt32, turned, NULL));
  for (k = 0; k < RANKS; k++) CHECK(all[k] == RANKS - 1 - k, "all[%d] is %d", k, (int)all[k]);
  /* Two splits in a group, with ranks that take no part. */
  OK(hfrGroupStart());
  OK(hfrCommSplit(turned, self->rank < 2 ? 0 : HFR_SPLIT_NOCOLOR, 0, &pair[0], NULL));
  OK(hfrCommSplit(turned, self->rank < 2 ? HFR_SPLIT_NOCOLOR : 0, 0, &pair[1], NULL));
  OK(hfrGroupEnd());
  k = self->rank < 2 ? 0 : 1;
  CHECK(pair[k] != NULL && pair[1 - k] == NULL, "the wrong half");
  OK(hfrCommCount(pair[k], &count));
  OK(hfrAllReduce(own, all, 1, hfrInt32, hfrSum, pair[k], NULL));
  CHECK(count == 2 && all[0] == (k == 0 ? 1 : 5), "%d ranks, sum %d", count, (int)all[0]);
  OK(hfrCommFinalize(pair[k]));
  FAILS(hfrInvalidUsage, "finalized", hfrBarrier(pair[k], NULL));
  OK(hfrCommCount(pair[k], &count));
  OK(hfrCommDestroy(pair[k]));
  OK(hfrCommDestroy(turned));
  REFUSED("color -5", hfrCommSplit(self->comm, -5, 0, &turned, NULL));
  CHECK(turned == NULL, "a handle of nothing");
  /* Rank 0 stays until all others have made and used their groups: they meet in its process. */
  OK(hfrBarrier(self->comm, NULL));
}

static void factors(Rank* self) {
  hfrRedOp_t scaled, other;
  float half = 0.5f, from[10], to[10];
  int64_t three = 3, whole = 2 + self->rank;
  int i;
  for (i = 0; i < 10; i++) from[i] = (float)(i + 1) * (float)(self->rank + 1);
  OK(hfrRedOpCreatePreMulSum(&scaled, &half, hfrFloat32, hfrScalarHostImmediate, self->comm));
  OK(hfrRedOpCreatePreMulSum(&other, &three, hfrInt64, hfrScalarHostImmediate, self->comm));
  CHECK((int)scaled >= hfrNumOps && (int)other > (int)scaled && (int)other < hfrBand, "%d, %d", (int)scaled, (int)other);
  OK(hfrAllReduce(from, to, 10, hfrFloat32, scaled, self->comm, NULL));
  for (i = 0; i < 10; i++) CHECK(to[i] == 5.0f * (float)(i + 1), "element %d is %g", i, (double)to[i]);
  OK(hfrAllReduce(&whole, &whole, 1, hfrInt64, other, self->comm, NULL));
  CHECK(whole == 3 * (2 + 3 + 4 + 5), "the sum is %d", (int)whole);
  REFUSED("made for float", hfrAllReduce(&whole, &whole, 1, hfrInt64, scaled, self->comm, NULL));
  REFUSED("hfrScalarHostImmediate", hfrRedOpCreatePreMulSum(&other, &three, hfrInt64, hfrScalarDevice, self->comm));
  OK(hfrRedOpDestroy(scaled, self->comm));
  REFUSED("no operation", hfrRedOpDestroy(scaled, self->comm));
  REFUSED("no hfrRedOp_t", hfrAllReduce(from, to, 10, hfrFloat32, scaled, self->comm, NULL));
}

static void memory(Rank* self) {
  void *plain = NULL, *shared = NULL, *none = self, *handle = NULL;
  hfrComm_t comm = NULL;
  size_t i;
  OK(hfrMemAlloc(&plain, 5000));
  OK(hfrCommInitRank(&comm, self->ranks, self->id, self->rank));
  OK(hfrMemAlloc(&shared, MOST * sizeof(int32_t)));
  OK(hfrMemAlloc(&none, 0));
  CHECK(none == NULL && ((uintptr_t)plain | (uintptr_t)shared) % 4096 == 0, "%p, %p, %p", none, plain, shared);
  for (i = 0; i < MOST; i++) CHECK(((int32_t*)shared)[i] == 0, "not zeroed");
  fill((int32_t*)shared, MOST, self->rank, 0);
  OK(hfrCommRegister(comm, shared, MOST * sizeof(int32_t), &handle));
  OK(hfrAllReduce(shared, shared, MOST, hfrInt32, hfrSum, comm, NULL));
  OK(hfrCommDeregister(comm, handle));
  REFUSED("no registration", hfrCommDeregister(comm, handle));
  fill((int32_t*)plain, 1000, self->rank, 0);
  OK(hfrAllReduce(plain, plain, 1000, hfrInt32, hfrMax, comm, NULL));
  OK(hfrCommDestroy(comm));
  /* It outlives the communicator. */
  for (i = 0; i < MOST; i++) CHECK(((int32_t*)shared)[i] == combined(hfrSum, i), "element %zu", i);
  for (i = 0; i < 1000; i++) CHECK(((int32_t*)plain)[i] == combined(hfrMax, i), "element %zu", i);
  OK(hfrMemFree(shared));
  OK(hfrMemFree(plain));
  OK(hfrMemFree(NULL));
  REFUSED("was not given", hfrMemFree(shared));
  REFUSED("was not given", hfrMemFree(&comm));
}

static void reducer(Rank* self) {
  static const char* const NAMES[] = {"embedding", "layer.0", "layer.1"};
  static const size_t SIZES[] = {70000, 33, 1};
  hfrReducer_t reducer = NULL;
  float* parts[3];
  void* fused = NULL;
  const char* const* names = NULL;
  size_t total = 0, count = 0, i, at;
  int k, step;
  OK(hfrReducerCreate(&reducer, self->comm, hfrFloat32, hfrAvg));
  for (k = 0; k < 3; k++) OK(hfrReducerRegister(reducer, NAMES[k], SIZES[k]));
  REFUSED("layer.0", hfrReducerRegister(reducer, "layer.0", 5));
  OK(hfrReducerTotal(reducer, &total));
  CHECK(total == 70034, "%zu", total);
  OK(hfrMemAlloc(&fused, total * sizeof(float)));
  OK(hfrReducerSetFusedDest(reducer, fused));
  for (k = 0; k < 3; k++) parts[k] = (float*)malloc(SIZES[k] * sizeof(float));
  for (step = 0; step < 3; step++) {
    /* The last first, as gradients come. */
    for (k = 2; k >= 0; k--) {
      for (i = 0; i < SIZES[k]; i++) parts[k][i] = (float)(self->rank * 2 + step + (int)(i % 9) + k);
      OK(hfrReducerAsyncReduce(reducer, NULL, NAMES[k], parts[k], SIZES[k]));
    }
    OK(hfrReducerSynchronize(reducer, NULL, &names, &count));
    CHECK(count == 3 && strcmp(names[0], "layer.1") == 0 && strcmp(names[2], "embedding") == 0, "%zu names", count);
    for (k = 0, at = 0; k < 3; at += SIZES[k], k++) {
      for (i = 0; i < SIZES[k]; i++) {
        float right = (float)(3 + step + (int)(i % 9) + k);
        CHECK(((float*)fused)[at + i] == right, "%s: element %zu is %g", NAMES[k], i, (double)((float*)fused)[at + i]);
      }
    }
  }
  /* Without a destination a result takes its tensor's place. */
  OK(hfrReducerSetFusedDest(reducer, NULL));
  for (i = 0; i < 33; i++) parts[1][i] = (float)(self->rank * 4);
  OK(hfrReducerAsyncReduce(reducer, NULL, "layer.0", parts[1], 33));
  OK(hfrReducerSynchronize(reducer, NULL, NULL, &count));
  for (i = 0; i < 33; i++) CHECK(parts[1][i] == 6.0f, "element %zu is %g", i, (double)parts[1][i]);
  REFUSED("layer.9", hfrReducerAsyncReduce(reducer, NULL, "layer.9", parts[1], 33));
  REFUSED("34 elements", hfrReducerAsyncReduce(reducer, NULL, "layer.0", parts[1], 34));
  REFUSED("stream", hfrReducerAsyncReduce(reducer, self, "layer.0", parts[1], 33));
  REFUSED("NULL", hfrReducerAsyncReduce(reducer, NULL, NULL, parts[1], 33));
  OK(hfrReducerDestroy(reducer));
  REFUSED("no reducer that lives", hfrReducerTotal(reducer, &total));
  OK(hfrMemFree(fused));
  for (k = 0; k < 3; k++) free(parts[k]);
}

/* A group of one is a group. */
static void alone(Rank* self) {
  hfrComm_t comm = NULL, part = NULL;
  int32_t a[6], b[6], c[6], rank = -1, ranks = -1;
  size_t counts[1] = {6}, first[1] = {0};
  int i;
  OK(hfrCommInitRank(&comm, 1, self->id, 0));
  OK(hfrCommSplit(comm, 3, 0, &part, NULL));
  OK(hfrCommUserRank(part, &rank));
  OK(hfrCommCount(part, &ranks));
  CHECK(rank == 0 && ranks == 1, "rank %d of %d", (int)rank, (int)ranks);
  for (i = 0; i < 8; i++) {
    fill(a, 6, 2, (size_t)i);
    memset(b, 0xee, sizeof b);
    switch (i) {
      case 0: OK(hfrAllReduce(a, b, 6, hfrInt32, hfrProd, part, NULL)); break;
      case 1: OK(hfrReduceScatter(a, b, 6, hfrInt32, hfrAvg, part, NULL)); break;
      case 2: OK(hfrAllGather(a, b, 6, hfrInt32, part, NULL)); break;
      case 3: OK(hfrBroadcast(a, b, 6, hfrInt32, 0, part, NULL)); break;
      case 4: OK(hfrReduce(a, b, 6, hfrInt32, hfrMax, 0, part, NULL)); break;
      case 5: OK(hfrAlltoAllv(a, counts, first, b, counts, first, hfrInt32, part, NULL)); break;
      case 6: OK(hfrGather(a, b, 6, hfrInt32, 0, comm, NULL)); break;
      default: OK(hfrScatter(a, b, 6, hfrInt32, 0, comm, NULL)); break;
    }
    is(b, 6, 2, (size_t)i, "alone");
  }
  OK(hfrAlltoAll(b, c, 6, hfrInt32, comm, NULL));
  is(c, 6, 2, 7, "all_to_all alone");
  OK(hfrGroupStart());
  OK(hfrRecv(b, 6, hfrInt32, 0, comm, NULL));
  fill(a, 6, 1, 9);
  OK(hfrSend(a, 6, hfrInt32, 0, comm, NULL));
  OK(hfrGroupEnd());
  is(b, 6, 1, 9, "to oneself");
  OK(hfrBarrier(comm, NULL));
  OK(hfrCommDestroy(part));
  OK(hfrCommDestroy(comm));
}

int main(int argc, char** argv) {
  static const Case CASES[] = {
      {"alone", 1, 1, 1, -1, alone},
      {"all_reduce", RANKS, 1, 0, -1, all_reduce},     {"all_reduce", RANKS, 2, 0, -1, all_reduce},
      {"every_type", RANKS, 1, 0, -1, every_type},     {"every_type", RANKS, 2, 0, -1, every_type},
      {"shares", RANKS, 1, 0, -1, shares},             {"shares", RANKS, 2, 0, -1, shares},
      {"roots", RANKS, 1, 0, -1, roots},               {"roots", RANKS, 2, 0, -1, roots},
      {"all_to_all_v", RANKS, 1, 0, -1, all_to_all_v}, {"all_to_all_v", RANKS, 2, 0, -1, all_to_all_v},
      {"messages", RANKS, 1, 0, -1, messages},         {"messages", RANKS, 2, 0, -1, messages},
      {"groups", RANKS, 1, 0, -1, groups},             {"groups", RANKS, 2, 0, -1, groups},
      {"splits", RANKS, 1, 0, -1, splits},             {"splits", RANKS, 2, 0, -1, splits},
      {"factors", RANKS, 1, 0, -1, factors},           {"factors", RANKS, 2, 0, -1, factors},
      {"memory", RANKS, 1, 1, -1, memory},             {"memory", RANKS, 2, 1, -1, memory},
      {"reducer", RANKS, 1, 0, -1, reducer},           {"reducer", RANKS, 2, 0, -1, reducer},
  };
  return run_cases(CASES, sizeof CASES / sizeof CASES[0], argc > 1 ? argv[1] : NULL);
}

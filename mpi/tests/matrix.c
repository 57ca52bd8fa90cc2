/*
 * Every collective, type and operation, in place and not, at lengths around those where pieces begin; every element is compared with one
 * that is computed here. Inputs differ by rank and place, and all sums and products are exact. Types and operations that hfreduce lacks are
 * in it as well: they must come out the same.
 */
#include <time.h>

#include "check.h"

typedef enum { SUM, PROD, MIN, MAX, BAND, BOR, BXOR, LAND, LOR, LXOR, OPS } Operation;

static const int LENGTHS[] = {1, 7, 64, 1000, 40001};
enum { LENGTHS_N = 5, LONGEST = 40001 };

static MPI_Op op_of(Operation o) {
  const MPI_Op ops[OPS] = {MPI_SUM, MPI_PROD, MPI_MIN, MPI_MAX, MPI_BAND, MPI_BOR, MPI_BXOR, MPI_LAND, MPI_LOR, MPI_LXOR};
  return ops[o];
}

/* Small and never 0 everywhere; of both signs for types that have them. */
static long input(int from, long at, int is_signed, Operation o) {
  long value = (at * 7 + from * 13) % 5 + 1;
  if (o == PROD) value = (at + from) % 3 == 0 ? 2 : 1;
  if (o == LAND || o == LOR || o == LXOR) value = (at + from) % 3 == 0;
  return is_signed && (at + from) % 4 == 0 && o < LAND ? -value : value;
}

static long combine(long a, long b, Operation o) {
  switch (o) {
    case SUM: return a + b;
    case PROD: return a * b;
    case MIN: return a < b ? a : b;
    case MAX: return a > b ? a : b;
    case BAND: return a & b;
    case BOR: return a | b;
    case BXOR: return a ^ b;
    case LAND: return a && b;
    case LOR: return a || b;
    default: return !a != !b;
  }
}

static long expected(long at, int is_signed, Operation o) {
  long value = input(0, at, is_signed, o);
  int from;
  for (from = 1; from < size; from++) value = combine(value, input(from, at, is_signed, o), o);
  return value;
}

/* A type: how its elements are written and read. */
typedef struct {
  const char* name;
  MPI_Datatype datatype;
  size_t bytes;
  int is_signed, is_float;
  void (*put)(void* buffer, long at, long value);
  long (*get)(const void* buffer, long at);
} Type;

#define ACCESS(id, c)                                                                          \
  static void put_##id(void* buffer, long at, long value) { ((c*)buffer)[at] = (c)value; }     \
  static long get_##id(const void* buffer, long at) { return (long)((const c*)buffer)[at]; }
ACCESS(float, float)
ACCESS(double, double)
ACCESS(ldouble, long double)
ACCESS(schar, signed char)
ACCESS(uchar, unsigned char)
ACCESS(short, short)
ACCESS(ushort, unsigned short)
ACCESS(int, int)
ACCESS(uint, unsigned)
ACCESS(long, long)
ACCESS(ulong, unsigned long)

#define TYPE(name, id, c, is_signed, is_float) {#name, name, sizeof(c), is_signed, is_float, put_##id, get_##id}

static const Type* types(int* number) {
  static const Type all[] = {
      TYPE(MPI_FLOAT, float, float, 1, 1),         TYPE(MPI_DOUBLE, double, double, 1, 1),
      TYPE(MPI_LONG_DOUBLE, ldouble, long double, 1, 1),
      TYPE(MPI_SIGNED_CHAR, schar, signed char, 1, 0), TYPE(MPI_UNSIGNED_CHAR, uchar, unsigned char, 0, 0),
      TYPE(MPI_SHORT, short, short, 1, 0),         TYPE(MPI_UNSIGNED_SHORT, ushort, unsigned short, 0, 0),
      TYPE(MPI_INT, int, int, 1, 0),               TYPE(MPI_UNSIGNED, uint, unsigned, 0, 0),
      TYPE(MPI_LONG, long, long, 1, 0),            TYPE(MPI_UNSIGNED_LONG, ulong, unsigned long, 0, 0),
      TYPE(MPI_LONG_LONG, long, long, 1, 0),       TYPE(MPI_UNSIGNED_LONG_LONG, ulong, unsigned long, 0, 0),
      TYPE(MPI_INT8_T, schar, signed char, 1, 0),  TYPE(MPI_UINT8_T, uchar, unsigned char, 0, 0),
      TYPE(MPI_INT16_T, short, short, 1, 0),       TYPE(MPI_UINT16_T, ushort, unsigned short, 0, 0),
      TYPE(MPI_INT32_T, int, int, 1, 0),           TYPE(MPI_UINT32_T, uint, unsigned, 0, 0),
      TYPE(MPI_INT64_T, long, long, 1, 0),         TYPE(MPI_UINT64_T, ulong, unsigned long, 0, 0),
      /* Without negative values: Open MPI 4.1 takes these for unsigned. */
      TYPE(MPI_AINT, long, long, 0, 0),            TYPE(MPI_OFFSET, long, long, 0, 0),
      TYPE(MPI_COUNT, long, long, 0, 0),
  };
  *number = sizeof all / sizeof *all;
  return all;
}

static int has(const Type* type, Operation o) { return !type->is_float || o <= MAX; }

static char *from, *to;

static void load(char* buffer, const Type* type, long count, Operation o) {
  long at;
  for (at = 0; at < count; at++) type->put(buffer, at, input(rank, at, type->is_signed, o));
}

static void compare(const char* what, const char* buffer, const Type* type, long first, long count, Operation o) {
  long at;
  for (at = 0; at < count; at++) {
    long is = type->get(buffer, at), ought = expected(first + at, type->is_signed, o);
    if (type->bytes == 1) ought = type->is_signed ? (signed char)ought : (unsigned char)ought;
    CHECK(is == ought, "%s %s operation %d, element %ld of %ld is %ld, not %ld", what, type->name, o, first + at, count, is, ought);
  }
}

static void reduce_once(const Type* type, Operation o, int count, int root) {
  load(from, type, count, o);
  memset(to, 0x5a, (size_t)count * type->bytes);
  OK(MPI_Allreduce(from, to, count, type->datatype, op_of(o), MPI_COMM_WORLD));
  compare("Allreduce", to, type, 0, count, o);
  OK(MPI_Allreduce(MPI_IN_PLACE, from, count, type->datatype, op_of(o), MPI_COMM_WORLD));
  compare("Allreduce in place", from, type, 0, count, o);

  load(from, type, count, o);
  memset(to, 0x5a, (size_t)count * type->bytes);
  OK(MPI_Reduce(from, rank == root ? to : NULL, count, type->datatype, op_of(o), root, MPI_COMM_WORLD));
  if (rank == root) compare("Reduce", to, type, 0, count, o);
  /* MPICH 4.0 dies when a root other than 0 reduces more than 2 KiB in place. */
  if ((size_t)count * type->bytes > 2048) root = 0;
  OK(MPI_Reduce(rank == root ? MPI_IN_PLACE : from, rank == root ? from : NULL, count, type->datatype, op_of(o), root, MPI_COMM_WORLD));
  if (rank == root) compare("Reduce in place", from, type, 0, count, o);
}

static void share_once(const Type* type, Operation o, int count) {
  int counts[64], shift, r, first = 0;
  load(from, type, (long)count * size, o);
  memset(to, 0x5a, (size_t)count * type->bytes);
  OK(MPI_Reduce_scatter_block(from, to, count, type->datatype, op_of(o), MPI_COMM_WORLD));
  compare("Reduce_scatter_block", to, type, (long)rank * count, count, o);
  OK(MPI_Reduce_scatter_block(MPI_IN_PLACE, from, count, type->datatype, op_of(o), MPI_COMM_WORLD));
  compare("Reduce_scatter_block in place", from, type, (long)rank * count, count, o);
  /* Equal shares, then uneven ones, of which one is nothing. */
  for (shift = 0; shift < 2; shift++) {
    for (r = 0, first = 0; r < size; r++) counts[r] = shift == 0 ? count : r == 1 ? 0 : count - count * r / (2 * size);
    for (r = 0; r < rank; r++) first += counts[r];
    load(from, type, (long)count * size, o);
    memset(to, 0x5a, (size_t)count * type->bytes);
    OK(MPI_Reduce_scatter(from, to, counts, type->datatype, op_of(o), MPI_COMM_WORLD));
    compare("Reduce_scatter", to, type, first, counts[rank], o);
    CHECK(counts[rank] == count || to[(size_t)counts[rank] * type->bytes] == 0x5a, "Reduce_scatter wrote past its share");
    OK(MPI_Reduce_scatter(MPI_IN_PLACE, from, counts, type->datatype, op_of(o), MPI_COMM_WORLD));
    compare("Reduce_scatter in place", from, type, first, counts[rank], o);
  }
}

static void reductions(void) {
  int number, t, o, l;
  const Type* all = types(&number);
  for (t = 0; t < number; t++) {
    for (o = 0; o < OPS; o++) {
      if (!has(&all[t], (Operation)o)) continue;
      /* Logical operations stay with MPI, which takes long where ranks share cores. */
      for (l = 0; l < (o < LAND ? 3 : 1); l++) {
        reduce_once(&all[t], (Operation)o, LENGTHS[l], (t + o + l) % size);
        share_once(&all[t], (Operation)o, LENGTHS[l]);
      }
    }
    reduce_once(&all[t], t % 2 ? SUM : MAX, LENGTHS[3], t % size);
    share_once(&all[t], t % 2 ? MIN : SUM, LENGTHS[3]);
  }
}

static void long_reductions(void) {
  int number, root;
  const Type* all = types(&number);
  for (root = 0; root < size; root++) reduce_once(&all[root % 2], SUM, LONGEST, root);
  share_once(&all[0], SUM, LONGEST);
  share_once(&all[7], MAX, LONGEST);
}

static unsigned char byte(int sender, int receiver, long at) { return (unsigned char)(sender * 31 + receiver * 17 + at * 3 + 1); }

static void moves(void) {
  int l, root, r;
  long at;
  for (l = 0; l < LENGTHS_N; l++) {
    int count = LENGTHS[l];
    for (root = 0; root < size; root++) {
      for (at = 0; at < count; at++) to[at] = (char)(rank == root ? byte(root, 0, at) : 0x5a);
      OK(MPI_Bcast(to, count, MPI_CHAR, root, MPI_COMM_WORLD));
      for (at = 0; at < count; at++) CHECK((unsigned char)to[at] == byte(root, 0, at), "Bcast of %d from %d at %ld", count, root, at);
    }
    memset(to, 0x5a, (size_t)count * (size_t)size);
    for (at = 0; at < count; at++) from[at] = to[(long)rank * count + at] = (char)byte(rank, 0, at);
    for (root = 0; root < 2; root++) {
      if (root == 0) OK(MPI_Allgather(from, count, MPI_BYTE, to, count, MPI_UNSIGNED_CHAR, MPI_COMM_WORLD));
      if (root == 1) OK(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, to, count, MPI_BYTE, MPI_COMM_WORLD));
      for (r = 0; r < size; r++) {
        for (at = 0; at < count; at++) CHECK((unsigned char)to[(long)r * count + at] == byte(r, 0, at), "Allgather %d of rank %d at %ld", root, r, at);
      }
      memset(to, 0x5a, (size_t)count * (size_t)size);
      memcpy(to + (long)rank * count, from, (size_t)count);
    }
    for (r = 0; r < size; r++) {
      for (at = 0; at < count; at++) from[(long)r * count + at] = (char)byte(rank, r, at);
    }
    for (root = 0; root < 2; root++) {
      if (root == 0) OK(MPI_Alltoall(from, count, MPI_BYTE, to, count, MPI_BYTE, MPI_COMM_WORLD));
      if (root == 1) OK(MPI_Alltoall(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, from, count, MPI_BYTE, MPI_COMM_WORLD));
      for (r = 0; r < size; r++) {
        const char* got = root == 0 ? to : from;
        for (at = 0; at < count; at++) CHECK((unsigned char)got[(long)r * count + at] == byte(r, rank, at), "Alltoall %d from rank %d at %ld", root, r, at);
      }
    }
    OK(MPI_Barrier(MPI_COMM_WORLD));
  }
}

/* One clock for all ranks: they share a host. MPI_Wtime() may begin with each process. */
static double clock_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Nobody leaves a barrier before all have come. */
static void barriers(void) {
  double came, left, last;
  int turn;
  for (turn = 0; turn < 3; turn++) {
    if (rank == turn % size) usleep(50000);
    came = clock_now();
    OK(MPI_Barrier(MPI_COMM_WORLD));
    left = clock_now();
    MPI_Reduce(&came, &last, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0) CHECK(left >= last, "rank 0 left %f s before the last came", last - left);
  }
}

/* Counts of nothing are calls, too. */
static void nothing(void) {
  int one = rank + 1;
  OK(MPI_Allreduce(NULL, NULL, 0, MPI_INT, MPI_SUM, MPI_COMM_WORLD));
  OK(MPI_Bcast(&one, 0, MPI_INT, 0, MPI_COMM_WORLD));
  CHECK(one == rank + 1, "a broadcast of nothing wrote");
  OK(MPI_Allreduce(MPI_IN_PLACE, &one, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD));
  CHECK(one == size * (size + 1) / 2, "the sum is %d", one);
}

int main(int argc, char** argv) {
  begin(&argc, &argv, MPI_THREAD_SINGLE);
  from = malloc((size_t)LONGEST * (size_t)size * 16);
  to = malloc((size_t)LONGEST * (size_t)size * 16);
  CHECK(from != NULL && to != NULL && size <= 64, "no memory, or more than 64 ranks");
  CASE(reductions);
  CASE(long_reductions);
  CASE(moves);
  CASE(barriers);
  CASE(nothing);
  free(from);
  free(to);
  return finish();
}

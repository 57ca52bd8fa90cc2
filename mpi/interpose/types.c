/*
 * MPI's types and operations in hfreduce's words, and buffers of any type as plain bytes. Knows no communicator. Invariant: what decides here is
 * equal on all ranks of a correct program. For reductions that is the type itself. Where data only moves, MPI lets each rank describe the same
 * bytes by a type of its own, so there the number of bytes decides and types with gaps are packed.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "interpose.h"

typedef enum { INTEGER, FLOATING, BYTE } Family;

typedef struct {
  MPI_Datatype datatype;
  hfrDataType_t type;
  size_t bytes;
  Family family;
} Row;

/* By size: long is 4 bytes on some systems. */
#define SIGNED(name, c) {name, sizeof(c) == 1 ? hfrInt8 : sizeof(c) == 4 ? hfrInt32 : hfrInt64, sizeof(c), INTEGER}
#define UNSIGNED(name, c) {name, sizeof(c) == 1 ? hfrUint8 : sizeof(c) == 4 ? hfrUint32 : hfrUint64, sizeof(c), INTEGER}

static const Row ROWS[] = {
    {MPI_FLOAT, hfrFloat32, 4, FLOATING},
    {MPI_DOUBLE, hfrFloat64, 8, FLOATING},
    SIGNED(MPI_INT, int),
    SIGNED(MPI_LONG, long),
    SIGNED(MPI_LONG_LONG, long long),
    UNSIGNED(MPI_UNSIGNED, unsigned),
    UNSIGNED(MPI_UNSIGNED_LONG, unsigned long),
    UNSIGNED(MPI_UNSIGNED_LONG_LONG, unsigned long long),
    SIGNED(MPI_SIGNED_CHAR, signed char),
    UNSIGNED(MPI_UNSIGNED_CHAR, unsigned char),
    SIGNED(MPI_INT8_T, char),
    SIGNED(MPI_INT32_T, int),
    SIGNED(MPI_INT64_T, long long),
    UNSIGNED(MPI_UINT8_T, unsigned char),
    UNSIGNED(MPI_UINT32_T, unsigned),
    UNSIGNED(MPI_UINT64_T, unsigned long long),
    SIGNED(MPI_AINT, MPI_Aint),
    SIGNED(MPI_OFFSET, MPI_Offset),
    SIGNED(MPI_COUNT, MPI_Count),
    {MPI_BYTE, hfrUint8, 1, BYTE},
};

Reason hfr_reduction(MPI_Datatype datatype, MPI_Op op, Kind* kind, hfrRedOp_t* redop) {
  const Row* row = NULL;
  size_t i;
  int bitwise = 0;
  for (i = 0; i < sizeof ROWS / sizeof *ROWS && row == NULL; i++) {
    if (ROWS[i].datatype == datatype) row = &ROWS[i];
  }
  if (row == NULL) return BY_TYPE;
  if (op == MPI_SUM) {
    *redop = hfrSum;
  } else if (op == MPI_MAX) {
    *redop = hfrMax;
  } else if (op == MPI_MIN) {
    *redop = hfrMin;
  } else if (op == MPI_PROD) {
    *redop = hfrProd;
  } else {
    bitwise = 1;
    if (op == MPI_BAND) {
      *redop = hfrBand;
    } else if (op == MPI_BOR) {
      *redop = hfrBor;
    } else if (op == MPI_BXOR) {
      *redop = hfrBxor;
    } else {
      return BY_OPERATION;
    }
  }
  /* What MPI does not define, MPI refuses in its own words. */
  if (row->family == (bitwise ? FLOATING : BYTE)) return BY_OPERATION;
  kind->type = row->type;
  kind->bytes = row->bytes;
  return OURS;
}

long long hfr_bytes(int count, MPI_Datatype datatype) {
  MPI_Count size = MPI_UNDEFINED;
  if (count < 0 || datatype == MPI_DATATYPE_NULL) return -1;
  if (PMPI_Type_size_x(datatype, &size) != MPI_SUCCESS || size < 0) return -1;
  if (size > 0 && count > LLONG_MAX / 4 / size) return -1;
  return (long long)count * size;
}

static MPI_Aint extent_of(MPI_Datatype datatype) {
  MPI_Aint bound = 0, extent = 0;
  PMPI_Type_get_extent(datatype, &bound, &extent);
  return extent;
}

char* hfr_element(const void* buffer, long long index, MPI_Datatype datatype) {
  return (char*)buffer + index * extent_of(datatype);
}

/* Whether memory order is the order of the signature, without gaps: a type of MPI's own, or a contiguous one of such. That sizes agree does
 * not say so: a structure's parts may lie in any order. */
static int dense(MPI_Datatype datatype) {
  int integers = 0, addresses = 0, types = 0, combiner = 0, answer, number;
  MPI_Aint bound = 0, extent = 0, address;
  MPI_Datatype inner;
  MPI_Count size = 0;
  PMPI_Type_get_envelope(datatype, &integers, &addresses, &types, &combiner);
  if (combiner == MPI_COMBINER_NAMED) {
    PMPI_Type_size_x(datatype, &size);
    PMPI_Type_get_extent(datatype, &bound, &extent);
    return bound == 0 && extent == size;
  }
  if ((combiner != MPI_COMBINER_CONTIGUOUS && combiner != MPI_COMBINER_DUP) || types != 1 || integers > 1) return 0;
  if (PMPI_Type_get_contents(datatype, integers, 0, 1, &number, &address, &inner) != MPI_SUCCESS) return 0;
  answer = dense(inner);
  PMPI_Type_get_envelope(inner, &integers, &addresses, &types, &combiner);
  if (combiner != MPI_COMBINER_NAMED) PMPI_Type_free(&inner);
  return answer;
}

/* Packs or unpacks, in pieces whose bytes an int can count. */
static int convert(char* bytes, size_t length, void* buffer, long long count, MPI_Datatype datatype, int pack) {
  size_t each = count > 0 ? length / (size_t)count : 0;
  long long done, piece = each > 0 ? (1LL << 29) / (long long)each : count;
  if (piece < 1) piece = 1;
  if (piece > INT_MAX) piece = INT_MAX;
  for (done = 0; done < count; done += piece) {
    int now = (int)(count - done < piece ? count - done : piece), at = 0, code;
    int room = (int)((size_t)now * each);
    char* part = bytes + (size_t)done * each;
    char* place = hfr_element(buffer, done, datatype);
    code = pack ? PMPI_Pack(place, now, datatype, part, room, &at, MPI_COMM_SELF)
                : PMPI_Unpack(part, room, &at, place, now, datatype, MPI_COMM_SELF);
    if (code != MPI_SUCCESS) return code;
  }
  return MPI_SUCCESS;
}

int hfr_flatten(const void* buffer, long long count, MPI_Datatype datatype, size_t bytes, int load, Flat* flat) {
  flat->own = NULL;
  flat->bytes = (char*)buffer;
  if (bytes == 0 || dense(datatype)) return MPI_SUCCESS;
  flat->own = flat->bytes = malloc(bytes);
  if (flat->own == NULL) return MPI_ERR_NO_MEM;
  return load ? convert(flat->bytes, bytes, (void*)buffer, count, datatype, 1) : MPI_SUCCESS;
}

int hfr_unflatten(Flat* flat, void* buffer, long long count, MPI_Datatype datatype, size_t bytes, int store) {
  int code = MPI_SUCCESS;
  if (flat->own != NULL && store) code = convert(flat->bytes, bytes, buffer, count, datatype, 0);
  free(flat->own);
  flat->own = NULL;
  return code;
}

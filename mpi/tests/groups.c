/*
 * Communicators of all kinds, and types of all kinds. Communicators that are taken over and those that are not stand side by side; ranks
 * describe one message by types of their own.
 */
#include "check.h"

/* Each rank brings a number by its rank in comm: the sum says who was in it. */
static void add_up(MPI_Comm comm, const char* what) {
  int own, all, i;
  long values[3000], sum;
  MPI_Comm_rank(comm, &own);
  MPI_Comm_size(comm, &all);
  sum = (long)all * (all + 1) / 2;
  for (i = 0; i < 3000; i++) values[i] = own + 1 + i;
  OK(MPI_Allreduce(MPI_IN_PLACE, values, 3000, MPI_LONG, MPI_SUM, comm));
  for (i = 0; i < 3000; i++) CHECK(values[i] == sum + (long)all * i, "%s: element %d is %ld", what, i, values[i]);
  OK(MPI_Bcast(values, 3000, MPI_LONG, all - 1, comm));
  OK(MPI_Barrier(comm));
}

static void splits(void) {
  MPI_Comm half, turned, part;
  OK(MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half));
  add_up(half, "half");
  /* The other way round, and with the last rank in none. */
  OK(MPI_Comm_split(MPI_COMM_WORLD, rank == size - 1 ? MPI_UNDEFINED : 3, -rank, &part));
  if (part != MPI_COMM_NULL) {
    int own;
    MPI_Comm_rank(part, &own);
    CHECK(own == size - 2 - rank, "rank %d of the turned communicator", own);
    add_up(part, "turned");
  }
  OK(MPI_Comm_split_type(half, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &turned));
  add_up(turned, "shared");
  OK(MPI_Comm_free(&turned));
  OK(MPI_Comm_free(&half));
  if (part != MPI_COMM_NULL) OK(MPI_Comm_free(&part));
  add_up(MPI_COMM_WORLD, "world");
  add_up(MPI_COMM_SELF, "self");
}

static void duplicates(void) {
  MPI_Comm again, twice;
  OK(MPI_Comm_dup(MPI_COMM_WORLD, &again));
  add_up(again, "duplicate");
  OK(MPI_Comm_dup(again, &twice));
  OK(MPI_Comm_free(&again));
  add_up(twice, "duplicate of a duplicate");
  OK(MPI_Comm_disconnect(&twice));
}

static void created(void) {
  MPI_Group world, some;
  MPI_Comm first, alone;
  int two[2] = {0, 1};
  OK(MPI_Comm_group(MPI_COMM_WORLD, &world));
  OK(MPI_Group_incl(world, 2, two, &some));
  OK(MPI_Comm_create(MPI_COMM_WORLD, some, &first));
  if (first != MPI_COMM_NULL) {
    add_up(first, "created");
    OK(MPI_Comm_create_group(MPI_COMM_WORLD, some, 7, &alone));
    add_up(alone, "created by its own ranks");
    OK(MPI_Comm_free(&alone));
    OK(MPI_Comm_free(&first));
  }
  OK(MPI_Group_free(&some));
  OK(MPI_Group_free(&world));
}

/* Many, one after the other, and some of them left to MPI_Finalize. */
static void cycles(void) {
  MPI_Comm comm;
  int turn;
  for (turn = 0; turn < 10; turn++) {
    OK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
    add_up(comm, "cycle");
    if (turn % 5 != 4) OK(MPI_Comm_free(&comm));
  }
}

/* A communicator is freed when its last call has ended at the root, and has not begun elsewhere. */
static void early_leave(void) {
  MPI_Comm comm;
  int value = rank + 1;
  OK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  OK(MPI_Barrier(comm));
  if (rank != 0) sleep(3);
  OK(MPI_Bcast(&value, 1, MPI_INT, 0, comm));
  CHECK(value == 1, "the root's value came as %d", value);
  OK(MPI_Comm_free(&comm));
}

static void between_groups(void) {
  MPI_Comm half, both;
  int value = rank + 1, sum = 0, others = 0, i;
  OK(MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half));
  OK(MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, rank % 2 ? 0 : 1, 5, &both));
  OK(MPI_Allreduce(&value, &sum, 1, MPI_INT, MPI_SUM, both));
  for (i = 0; i < size; i++) {
    if (i % 2 != rank % 2) others += i + 1;
  }
  CHECK(sum == others, "the other side's sum is %d, not %d", sum, others);
  OK(MPI_Barrier(both));
  OK(MPI_Comm_free(&both));
  OK(MPI_Comm_free(&half));
}

static void longer(void* in, void* inout, int* count, MPI_Datatype* datatype) {
  int i;
  (void)datatype;
  for (i = 0; i < *count; i++) {
    if (((int*)in)[i] % 10 > ((int*)inout)[i] % 10) ((int*)inout)[i] = ((int*)in)[i];
  }
}

/* Operations that hfreduce does not have. */
static void operations(void) {
  struct {
    double value;
    int at;
  } pair = {(double)((rank * 3 + 2) % size), rank}, best;
  MPI_Op own;
  int values[2] = {rank * 7 + 3, rank}, out[2], i, ought = 3;
  OK(MPI_Allreduce(&pair, &best, 1, MPI_DOUBLE_INT, MPI_MAXLOC, MPI_COMM_WORLD));
  for (i = 0; i < size; i++) {
    if ((i * 3 + 2) % size > best.value) CHECK(0, "rank %d has more than %f", i, best.value);
  }
  CHECK(best.value == (double)((best.at * 3 + 2) % size), "rank %d does not have %f", best.at, best.value);
  OK(MPI_Op_create(longer, 1, &own));
  OK(MPI_Allreduce(values, out, 2, MPI_INT, own, MPI_COMM_WORLD));
  for (i = 0; i < size; i++) {
    if ((i * 7 + 3) % 10 > ought % 10) ought = i * 7 + 3;
  }
  CHECK(out[0] % 10 == ought % 10, "the own operation gives %d, not %d", out[0], ought);
  OK(MPI_Op_free(&own));
}

/* The even ranks say "columns of a matrix", the odd ones "integers". */
static void types_that_differ(void) {
  enum { ROWS = 300, COLUMNS = 3 };
  static int matrix[ROWS][COLUMNS + 2], flat[ROWS * COLUMNS], gathered[64 * ROWS * COLUMNS];
  MPI_Datatype block, pair;
  int root, i, j;
  OK(MPI_Type_vector(ROWS, COLUMNS, COLUMNS + 2, MPI_INT, &block));
  OK(MPI_Type_commit(&block));
  OK(MPI_Type_contiguous(COLUMNS, MPI_INT, &pair));
  OK(MPI_Type_commit(&pair));
  for (root = 0; root < 2; root++) {
    for (i = 0; i < ROWS; i++) {
      for (j = 0; j < COLUMNS + 2; j++) matrix[i][j] = j < COLUMNS && rank == root ? i * 10 + j + 1000 * root + 1 : -7;
      for (j = 0; j < COLUMNS; j++) flat[i * COLUMNS + j] = rank == root ? i * 10 + j + 1000 * root + 1 : -7;
    }
    if (rank % 2 == 0) OK(MPI_Bcast(matrix, 1, block, root, MPI_COMM_WORLD));
    if (rank % 2 != 0) OK(MPI_Bcast(flat, ROWS, pair, root, MPI_COMM_WORLD));
    for (i = 0; i < ROWS; i++) {
      for (j = 0; j < COLUMNS; j++) {
        int is = rank % 2 == 0 ? matrix[i][j] : flat[i * COLUMNS + j];
        CHECK(is == i * 10 + j + 1000 * root + 1, "row %d column %d from %d is %d", i, j, root, is);
      }
      CHECK(matrix[i][COLUMNS] == -7 && matrix[i][COLUMNS + 1] == -7, "the gap of row %d was written", i);
    }
  }
  for (i = 0; i < ROWS; i++) {
    for (j = 0; j < COLUMNS; j++) matrix[i][j] = flat[i * COLUMNS + j] = rank * 10000 + i * 10 + j + 1;
  }
  if (rank % 2 == 0) OK(MPI_Allgather(matrix, 1, block, gathered, ROWS * COLUMNS, MPI_INT, MPI_COMM_WORLD));
  if (rank % 2 != 0) OK(MPI_Allgather(flat, ROWS * COLUMNS, MPI_INT, gathered, ROWS, pair, MPI_COMM_WORLD));
  for (i = 0; i < size * ROWS * COLUMNS; i++) {
    int from = i / (ROWS * COLUMNS), row = i / COLUMNS % ROWS, column = i % COLUMNS;
    CHECK(gathered[i] == from * 10000 + row * 10 + column + 1, "gathered %d is %d", i, gathered[i]);
  }
  OK(MPI_Type_free(&pair));
  OK(MPI_Type_free(&block));
}

/* A type as large as its parts, which lie in another order than they are sent. */
static void types_out_of_order(void) {
  int lengths[2] = {1, 1}, i, r;
  MPI_Aint places[2] = {4, 0};
  MPI_Datatype parts[2] = {MPI_INT, MPI_FLOAT}, turned;
  struct {
    float second;
    int first;
  } mine[50], all[64 * 50];
  OK(MPI_Type_create_struct(2, lengths, places, parts, &turned));
  OK(MPI_Type_commit(&turned));
  for (i = 0; i < 50; i++) {
    mine[i].first = rank * 100 + i;
    mine[i].second = (float)(rank + i) + 0.5f;
  }
  OK(MPI_Alltoall(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, memset(all, 1, sizeof all), 50, turned, MPI_COMM_WORLD));
  OK(MPI_Allgather(mine, 50, turned, all, 50, turned, MPI_COMM_WORLD));
  for (r = 0; r < size; r++) {
    for (i = 0; i < 50; i++) {
      CHECK(all[r * 50 + i].first == r * 100 + i && all[r * 50 + i].second == (float)(r + i) + 0.5f, "of rank %d, %d", r, i);
    }
  }
  if (rank == 0) {
    OK(MPI_Bcast(mine, 50, turned, 0, MPI_COMM_WORLD));
  } else {
    /* As it is sent: first and second, without order in memory. */
    struct {
      int first;
      float second;
    } got[50];
    MPI_Datatype straight;
    places[0] = 0;
    places[1] = 4;
    OK(MPI_Type_create_struct(2, lengths, places, parts, &straight));
    OK(MPI_Type_commit(&straight));
    OK(MPI_Bcast(got, 50, straight, 0, MPI_COMM_WORLD));
    for (i = 0; i < 50; i++) CHECK(got[i].first == i && got[i].second == (float)i + 0.5f, "element %d came as %d", i, got[i].first);
    OK(MPI_Type_free(&straight));
  }
  OK(MPI_Type_free(&turned));
}

int main(int argc, char** argv) {
  begin(&argc, &argv, MPI_THREAD_SINGLE);
  CHECK(size >= 3 && size <= 64, "this needs 3 to 64 ranks");
  CASE(splits);
  CASE(duplicates);
  CASE(created);
  CASE(cycles);
  CASE(early_leave);
  CASE(between_groups);
  CASE(operations);
  CASE(types_that_differ);
  CASE(types_out_of_order);
  return finish();
}

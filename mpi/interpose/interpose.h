/*
 * What the files of libhfr_mpi.so know of each other. The library stands between a program and its MPI: it defines some MPI_ functions, and
 * either does their work over hfreduce or calls the PMPI_ function of the same name. Each MPI has its own build, because handles and constants
 * differ. Invariant: all ranks of a communicator decide alike about a call, so only what MPI makes equal on all ranks may decide.
 */
#ifndef HFR_MPI_INTERPOSE_H_
#define HFR_MPI_INTERPOSE_H_

#include <hfreduce.h>
#include <mpi.h>
#include <pthread.h>
#include <stddef.h>

#define PUBLIC __attribute__((visibility("default")))

/* ---- start.c: settings, begin and end ------------------------------------------------------------------------------------------------ */

/* Whether calls may be taken over: from the end of MPI_Init to the begin of MPI_Finalize, unless HFR_MPI=off. */
int hfr_on(void);
/* Calls with fewer bytes than this go to MPI; the same on all ranks. */
size_t hfr_least(void);
/* Number of the node of a rank of MPI_COMM_WORLD. */
int hfr_node(int world_rank);
/* A line on stderr that begins with "hfr: ". */
void hfr_say(const char* format, ...) __attribute__((format(printf, 1, 2)));

/* ---- stats.c: what was taken over ----------------------------------------------------------------------------------------------------- */

typedef enum { ALLREDUCE, REDUCE, BCAST, ALLGATHER, REDUCE_SCATTER_BLOCK, REDUCE_SCATTER, ALLTOALL, BARRIER, IALLREDUCE, CALLS } Call;
/* Why a call went to MPI; OURS if it did not. */
typedef enum { OURS, BY_TYPE, BY_OPERATION, BY_COMMUNICATOR, BY_SIZE, REASONS } Reason;

const char* hfr_call_name(Call call);
void hfr_count(Call call, Reason reason, size_t bytes);
/* Prints the table on rank 0 if HFR_MPI_STATS=1; collective over MPI_COMM_WORLD. */
void hfr_print_stats(void);

/* ---- types.c: MPI's types and operations as hfreduce has them ------------------------------------------------------------------------- */

/* A type that can be added up. */
typedef struct {
  hfrDataType_t type;
  size_t bytes;
} Kind;

/* How hfreduce reduces with this type and operation; OURS if it does. */
Reason hfr_reduction(MPI_Datatype datatype, MPI_Op op, Kind* kind, hfrRedOp_t* redop);

/* A buffer as the bytes of its type's signature, in order: where it lies if there are no gaps, else in memory of its own. */
typedef struct {
  char* bytes;
  void* own; /* to be freed */
} Flat;

/* Bytes of count elements, by their signature; -1 where MPI must say what is wrong. */
long long hfr_bytes(int count, MPI_Datatype datatype);
/* Where element number index begins. */
char* hfr_element(const void* buffer, long long index, MPI_Datatype datatype);
/* The bytes of count elements; without load only room for them. Returns an MPI error code. */
int hfr_flatten(const void* buffer, long long count, MPI_Datatype datatype, size_t bytes, int load, Flat* flat);
/* Ends flat; with store the bytes go to the buffer that it was made for. */
int hfr_unflatten(Flat* flat, void* buffer, long long count, MPI_Datatype datatype, size_t bytes, int store);

/* ---- group.c: a communicator of hfreduce for each of MPI's ----------------------------------------------------------------------------- */

typedef struct Worker Worker;

typedef struct Group {
  int taken;       /* otherwise calls on this communicator go to MPI */
  int rank, size;
  hfrComm_t comm;
  Worker* worker;  /* runs calls that were started; NULL before the first */
  int error;       /* the MPI error code of its failure, or MPI_SUCCESS */
  pthread_mutex_t lock;
  struct Group *before, *after;
} Group;

/* The group of comm. With make it is made if there is none, which is collective; NULL without one. */
Group* hfr_group(MPI_Comm comm, int make);
/* What a failed call returns: rank 0 prints hfreduce's text, once, and it becomes an MPI error code. */
int hfr_failure(Group* group, Call call);
/* As hfr_failure(), and calls comm's error handler. */
int hfr_raise(MPI_Comm comm, Group* group, Call call);
int hfr_groups_begin(void);
void hfr_groups_end(void);

/* ---- started.c: calls that were started ------------------------------------------------------------------------------------------------ */

/* Waits until all calls that were started on group have been done: a blocking call goes behind them. */
void hfr_drain(Group* group);
/* Ends group's worker. */
void hfr_dismiss(Group* group);
/* Tells MPI which started calls are done. */
void hfr_settle(void);

/* ---- progress.c: MPI moves on while we wait -------------------------------------------------------------------------------------------- */

/* Around whatever waits for other ranks outside of MPI. */
void hfr_enter(void);
void hfr_leave(void);
int hfr_progress_begin(void);
void hfr_progress_end(void);

#endif

/*
 * The blocking collectives. Each finds out whether hfreduce does this call, counts it, and does it or hands it to MPI. Knows how buffers of
 * MPI's calls lie; not how groups are made. Invariant: the arguments that decide are those that MPI demands to be equal on all ranks.
 */
#include <stdlib.h>
#include <string.h>

#include "interpose.h"

/* The group that takes this call of so many bytes, or NULL and why not. Bytes of -1: arguments that MPI will refuse. */
static Group* taker(MPI_Comm comm, long long bytes, Reason* reason) {
  Group* group;
  if (*reason != OURS) return NULL;
  if (bytes <= 0 || (size_t)bytes < hfr_least()) {
    *reason = BY_SIZE;
    return NULL;
  }
  group = hfr_group(comm, 1);
  if (group == NULL) *reason = BY_COMMUNICATOR;
  return group;
}

static void count(Call call, Reason reason, long long bytes) { hfr_count(call, reason, bytes > 0 ? (size_t)bytes : 0); }

static void begin(Group* group) {
  hfr_enter();
  hfr_drain(group);
}

static int finish(MPI_Comm comm, Group* group, Call call, hfrResult_t result) {
  hfr_leave();
  return result == hfrSuccess ? MPI_SUCCESS : hfr_raise(comm, group, call);
}

/* An error of MPI's own inside our work, at this rank: no memory, a type that cannot be packed. The other ranks are in the call. */
static int broken(MPI_Comm comm, int code) {
  hfr_say("a buffer could not be packed; this rank gives up its call");
  PMPI_Comm_call_errhandler(comm, code);
  return code;
}

PUBLIC int MPI_Allreduce(const void* sendbuf, void* recvbuf, int number, MPI_Datatype datatype, MPI_Op op, MPI_Comm comm) {
  Kind kind = {hfrInt8, 0};
  hfrRedOp_t redop = hfrSum;
  long long bytes;
  Reason reason;
  Group* group;
  if (!hfr_on()) return PMPI_Allreduce(sendbuf, recvbuf, number, datatype, op, comm);
  bytes = hfr_bytes(number, datatype);
  reason = hfr_reduction(datatype, op, &kind, &redop);
  group = taker(comm, bytes, &reason);
  count(ALLREDUCE, reason, bytes);
  if (group == NULL) return PMPI_Allreduce(sendbuf, recvbuf, number, datatype, op, comm);
  if (sendbuf == MPI_IN_PLACE) sendbuf = recvbuf;
  begin(group);
  return finish(comm, group, ALLREDUCE, hfrAllReduce(sendbuf, recvbuf, (size_t)number, kind.type, redop, group->comm, NULL));
}

PUBLIC int MPI_Reduce(const void* sendbuf, void* recvbuf, int number, MPI_Datatype datatype, MPI_Op op, int root, MPI_Comm comm) {
  Kind kind = {hfrInt8, 0};
  hfrRedOp_t redop = hfrSum;
  long long bytes;
  Reason reason;
  Group* group;
  if (!hfr_on()) return PMPI_Reduce(sendbuf, recvbuf, number, datatype, op, root, comm);
  bytes = hfr_bytes(number, datatype);
  reason = hfr_reduction(datatype, op, &kind, &redop);
  group = taker(comm, bytes, &reason);
  if (group != NULL && (root < 0 || root >= group->size)) reason = BY_COMMUNICATOR;
  count(REDUCE, reason, bytes);
  if (reason != OURS) return PMPI_Reduce(sendbuf, recvbuf, number, datatype, op, root, comm);
  if (sendbuf == MPI_IN_PLACE) sendbuf = recvbuf;
  begin(group);
  return finish(comm, group, REDUCE, hfrReduce(sendbuf, group->rank == root ? recvbuf : NULL, (size_t)number, kind.type, redop, root,
                                               group->comm, NULL));
}

PUBLIC int MPI_Bcast(void* buffer, int number, MPI_Datatype datatype, int root, MPI_Comm comm) {
  long long bytes;
  Reason reason = OURS;
  Group* group;
  Flat flat;
  int code, done;
  if (!hfr_on()) return PMPI_Bcast(buffer, number, datatype, root, comm);
  bytes = hfr_bytes(number, datatype);
  group = taker(comm, bytes, &reason);
  if (group != NULL && (root < 0 || root >= group->size)) reason = BY_COMMUNICATOR;
  count(BCAST, reason, bytes);
  if (reason != OURS) return PMPI_Bcast(buffer, number, datatype, root, comm);
  code = hfr_flatten(buffer, number, datatype, (size_t)bytes, group->rank == root, &flat);
  if (code != MPI_SUCCESS) return broken(comm, code);
  begin(group);
  done = finish(comm, group, BCAST, hfrBcast(flat.bytes, (size_t)bytes, hfrUint8, root, group->comm, NULL));
  code = hfr_unflatten(&flat, buffer, number, datatype, (size_t)bytes, done == MPI_SUCCESS && group->rank != root);
  return done != MPI_SUCCESS || code == MPI_SUCCESS ? done : broken(comm, code);
}

PUBLIC int MPI_Allgather(const void* sendbuf, int sendcount, MPI_Datatype sendtype, void* recvbuf, int recvcount, MPI_Datatype recvtype,
                         MPI_Comm comm) {
  long long bytes, total;
  Reason reason = OURS;
  Group* group;
  Flat from = {NULL, NULL}, to;
  int code, done;
  if (!hfr_on()) return PMPI_Allgather(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, comm);
  bytes = hfr_bytes(recvcount, recvtype);
  group = taker(comm, bytes, &reason);
  count(ALLGATHER, reason, bytes);
  if (group == NULL) return PMPI_Allgather(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, comm);
  total = bytes * group->size;
  if (sendbuf == MPI_IN_PLACE) {
    sendbuf = hfr_element(recvbuf, (long long)recvcount * group->rank, recvtype);
    sendcount = recvcount;
    sendtype = recvtype;
  }
  code = hfr_flatten(sendbuf, sendcount, sendtype, (size_t)bytes, 1, &from);
  if (code == MPI_SUCCESS) code = hfr_flatten(recvbuf, (long long)recvcount * group->size, recvtype, (size_t)total, 0, &to);
  if (code != MPI_SUCCESS) {
    hfr_unflatten(&from, NULL, 0, sendtype, 0, 0);
    return broken(comm, code);
  }
  begin(group);
  done = finish(comm, group, ALLGATHER, hfrAllGather(from.bytes, to.bytes, (size_t)bytes, hfrUint8, group->comm, NULL));
  hfr_unflatten(&from, NULL, 0, sendtype, 0, 0);
  code = hfr_unflatten(&to, recvbuf, (long long)recvcount * group->size, recvtype, (size_t)total, done == MPI_SUCCESS);
  return done != MPI_SUCCESS || code == MPI_SUCCESS ? done : broken(comm, code);
}

/* hfreduce's exchange is never in place: then what is sent is copied first. */
static int copy_of(const void* recvbuf, long long number, MPI_Datatype recvtype, size_t total, Flat* from) {
  char* own;
  int code = hfr_flatten(recvbuf, number, recvtype, total, 1, from);
  if (code != MPI_SUCCESS || from->own != NULL) return code;
  own = malloc(total);
  if (own == NULL) return MPI_ERR_NO_MEM;
  from->own = memcpy(own, from->bytes, total);
  from->bytes = own;
  return MPI_SUCCESS;
}

PUBLIC int MPI_Alltoall(const void* sendbuf, int sendcount, MPI_Datatype sendtype, void* recvbuf, int recvcount, MPI_Datatype recvtype,
                        MPI_Comm comm) {
  long long bytes, all;
  size_t total;
  Reason reason = OURS;
  Group* group;
  Flat from = {NULL, NULL}, to;
  int code, done;
  if (!hfr_on()) return PMPI_Alltoall(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, comm);
  bytes = hfr_bytes(recvcount, recvtype);
  group = taker(comm, bytes, &reason);
  count(ALLTOALL, reason, bytes);
  if (group == NULL) return PMPI_Alltoall(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, comm);
  total = (size_t)bytes * (size_t)group->size;
  all = (long long)recvcount * group->size;
  code = sendbuf == MPI_IN_PLACE ? copy_of(recvbuf, all, recvtype, total, &from)
                                 : hfr_flatten(sendbuf, (long long)sendcount * group->size, sendtype, total, 1, &from);
  if (code == MPI_SUCCESS) code = hfr_flatten(recvbuf, all, recvtype, total, 0, &to);
  if (code != MPI_SUCCESS) {
    hfr_unflatten(&from, NULL, 0, recvtype, 0, 0);
    return broken(comm, code);
  }
  begin(group);
  done = finish(comm, group, ALLTOALL, hfrAlltoAll(from.bytes, to.bytes, (size_t)bytes, hfrUint8, group->comm, NULL));
  hfr_unflatten(&from, NULL, 0, recvtype, 0, 0);
  code = hfr_unflatten(&to, recvbuf, all, recvtype, total, done == MPI_SUCCESS);
  return done != MPI_SUCCESS || code == MPI_SUCCESS ? done : broken(comm, code);
}

/* A reduction whose results are shared out: counts[r] elements go to rank r, or each the same number where counts is NULL. */
typedef struct {
  const char* send;
  char* recv;
  const int* counts;
  size_t each;
  Kind kind;
  hfrRedOp_t op;
} Sharing;

static hfrResult_t share_out(Group* group, const Sharing* s) {
  hfrResult_t result, ended;
  size_t at = 0;
  int rank;
  if (s->counts == NULL) return hfrReduceScatter(s->send, s->recv, s->each, s->kind.type, s->op, group->comm, NULL);
  result = hfrGroupStart();
  for (rank = 0; rank < group->size && result == hfrSuccess; rank++) {
    size_t share = (size_t)s->counts[rank];
    char* recv = rank == group->rank ? s->recv : NULL;
    if (share > 0) result = hfrReduce(s->send + at * s->kind.bytes, recv, share, s->kind.type, s->op, rank, group->comm, NULL);
    at += share;
  }
  ended = hfrGroupEnd();
  return result == hfrSuccess ? ended : result;
}

/* In MPI's in place the own share comes to the begin of the buffer, over other input: it needs a place of its own until all is done. */
static int share(MPI_Comm comm, Group* group, Call call, Sharing* sharing, const void* sendbuf, void* recvbuf) {
  size_t bytes = (sharing->counts == NULL ? sharing->each : (size_t)sharing->counts[group->rank]) * sharing->kind.bytes;
  int in_place = sendbuf == MPI_IN_PLACE, done;
  sharing->send = in_place ? recvbuf : sendbuf;
  sharing->recv = in_place ? malloc(bytes + 1) : recvbuf;
  if (sharing->recv == NULL && in_place) return broken(comm, MPI_ERR_NO_MEM);
  begin(group);
  done = finish(comm, group, call, share_out(group, sharing));
  if (in_place) {
    if (done == MPI_SUCCESS) memcpy(recvbuf, sharing->recv, bytes);
    free(sharing->recv);
  }
  return done;
}

PUBLIC int MPI_Reduce_scatter_block(const void* sendbuf, void* recvbuf, int recvcount, MPI_Datatype datatype, MPI_Op op, MPI_Comm comm) {
  Sharing sharing = {NULL, NULL, NULL, (size_t)recvcount, {hfrInt8, 0}, hfrSum};
  long long bytes;
  Reason reason;
  Group* group;
  if (!hfr_on()) return PMPI_Reduce_scatter_block(sendbuf, recvbuf, recvcount, datatype, op, comm);
  bytes = hfr_bytes(recvcount, datatype);
  reason = hfr_reduction(datatype, op, &sharing.kind, &sharing.op);
  group = taker(comm, bytes, &reason);
  count(REDUCE_SCATTER_BLOCK, reason, bytes);
  if (group == NULL) return PMPI_Reduce_scatter_block(sendbuf, recvbuf, recvcount, datatype, op, comm);
  return share(comm, group, REDUCE_SCATTER_BLOCK, &sharing, sendbuf, recvbuf);
}

/* The mean share in bytes, and whether all are equal. -1: arguments that MPI will refuse. */
static long long mean(const int* counts, int size, MPI_Datatype datatype, int* equal) {
  long long sum = 0, one = hfr_bytes(1, datatype);
  int rank;
  *equal = 1;
  if (one <= 0 || counts == NULL) return -1;
  for (rank = 0; rank < size; rank++) {
    if (counts[rank] < 0) return -1;
    *equal = *equal && counts[rank] == counts[0];
    sum += counts[rank];
  }
  return (sum + size - 1) / size * one;
}

PUBLIC int MPI_Reduce_scatter(const void* sendbuf, void* recvbuf, const int recvcounts[], MPI_Datatype datatype, MPI_Op op, MPI_Comm comm) {
  Sharing sharing = {NULL, NULL, recvcounts, 0, {hfrInt8, 0}, hfrSum};
  long long bytes = 0;
  Reason reason;
  Group* group = NULL;
  int size = 0, inter = 0, equal = 1;
  if (!hfr_on()) return PMPI_Reduce_scatter(sendbuf, recvbuf, recvcounts, datatype, op, comm);
  reason = hfr_reduction(datatype, op, &sharing.kind, &sharing.op);
  /* How many counts there are only the communicator knows. */
  if (comm == MPI_COMM_NULL || PMPI_Comm_test_inter(comm, &inter) != MPI_SUCCESS || inter) reason = BY_COMMUNICATOR;
  if (reason != BY_COMMUNICATOR && PMPI_Comm_size(comm, &size) == MPI_SUCCESS) bytes = mean(recvcounts, size, datatype, &equal);
  group = taker(comm, bytes, &reason);
  count(REDUCE_SCATTER, reason, bytes);
  if (group == NULL) return PMPI_Reduce_scatter(sendbuf, recvbuf, recvcounts, datatype, op, comm);
  if (equal) {
    sharing.each = (size_t)recvcounts[0];
    sharing.counts = NULL;
  }
  return share(comm, group, REDUCE_SCATTER, &sharing, sendbuf, recvbuf);
}

PUBLIC int MPI_Barrier(MPI_Comm comm) {
  Group* group = NULL;
  Reason reason = hfr_least() > 0 ? BY_SIZE : OURS;
  if (!hfr_on()) return PMPI_Barrier(comm);
  if (reason == OURS && (group = hfr_group(comm, 1)) == NULL) reason = BY_COMMUNICATOR;
  hfr_count(BARRIER, reason, 0);
  if (group == NULL) return PMPI_Barrier(comm);
  begin(group);
  return finish(comm, group, BARRIER, hfrBarrier(group->comm, NULL));
}

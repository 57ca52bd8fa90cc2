/*
 * MPI_Iallreduce, and the functions that wait for requests. A thread for each group does its started calls one after the other, and the
 * request is a generalized one of MPI, so every function of MPI takes it. Knows no types. Invariant: the thread never calls MPI; a request is
 * completed by the program's own thread, in one of the functions below, so that no thread level is needed for it.
 */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "interpose.h"

typedef struct Job {
  Group* group;
  const void* send;
  void* recv;
  size_t count;
  hfrDataType_t type;
  hfrRedOp_t op;
  MPI_Request request;
  hfrResult_t result;
  int error; /* what MPI_Wait returns */
  struct Job* next;
} Job;

struct Worker {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t more, idle;
  Job *first, *last;
  int pending; /* in the list or being done */
  int ended;
};

static pthread_mutex_t done_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done_more = PTHREAD_COND_INITIALIZER;
static Job* done;              /* to be told to MPI */
static atomic_int outstanding; /* started, and not told to MPI */

/* ---- the thread ----------------------------------------------------------------------------------------------------------------------- */

static void hand_over(Job* job) {
  pthread_mutex_lock(&done_lock);
  job->next = done;
  done = job;
  pthread_cond_broadcast(&done_more);
  pthread_mutex_unlock(&done_lock);
}

static void* work(void* argument) {
  Worker* worker = argument;
  pthread_mutex_lock(&worker->lock);
  for (;;) {
    Job* job = worker->first;
    if (job == NULL) {
      if (worker->ended) break;
      pthread_cond_wait(&worker->more, &worker->lock);
      continue;
    }
    worker->first = job->next;
    if (worker->first == NULL) worker->last = NULL;
    pthread_mutex_unlock(&worker->lock);
    job->result = hfrAllReduce(job->send, job->recv, job->count, job->type, job->op, job->group->comm, NULL);
    hand_over(job);
    pthread_mutex_lock(&worker->lock);
    if (--worker->pending == 0) pthread_cond_broadcast(&worker->idle);
  }
  pthread_mutex_unlock(&worker->lock);
  return NULL;
}

static Worker* hire(void) {
  Worker* worker = calloc(1, sizeof *worker);
  if (worker == NULL) return NULL;
  pthread_mutex_init(&worker->lock, NULL);
  pthread_cond_init(&worker->more, NULL);
  pthread_cond_init(&worker->idle, NULL);
  if (pthread_create(&worker->thread, NULL, work, worker) == 0) return worker;
  free(worker);
  return NULL;
}

void hfr_drain(Group* group) {
  Worker* worker = group->worker;
  if (worker == NULL) return;
  pthread_mutex_lock(&worker->lock);
  while (worker->pending > 0) pthread_cond_wait(&worker->idle, &worker->lock);
  pthread_mutex_unlock(&worker->lock);
}

void hfr_dismiss(Group* group) {
  Worker* worker = group->worker;
  if (worker == NULL) return;
  hfr_enter();
  pthread_mutex_lock(&worker->lock);
  worker->ended = 1;
  pthread_cond_signal(&worker->more);
  pthread_mutex_unlock(&worker->lock);
  pthread_join(worker->thread, NULL);
  hfr_leave();
  /* What it has done still names the group. */
  hfr_settle();
  pthread_cond_destroy(&worker->idle);
  pthread_cond_destroy(&worker->more);
  pthread_mutex_destroy(&worker->lock);
  free(worker);
  group->worker = NULL;
}

/* ---- the request ---------------------------------------------------------------------------------------------------------------------- */

void hfr_settle(void) {
  if (atomic_load(&outstanding) == 0) return;
  pthread_mutex_lock(&done_lock);
  while (done != NULL) {
    Job* job = done;
    done = job->next;
    if (job->result != hfrSuccess) job->error = hfr_failure(job->group, IALLREDUCE);
    atomic_fetch_sub(&outstanding, 1);
    /* From here on MPI may free the job. */
    PMPI_Grequest_complete(job->request);
  }
  pthread_mutex_unlock(&done_lock);
}

static int query(void* state, MPI_Status* status) {
  PMPI_Status_set_elements(status, MPI_BYTE, 0);
  PMPI_Status_set_cancelled(status, 0);
  status->MPI_SOURCE = MPI_UNDEFINED;
  status->MPI_TAG = MPI_UNDEFINED;
  return ((Job*)state)->error;
}

static int dispose(void* state) {
  free(state);
  return MPI_SUCCESS;
}

/* A collective cannot be cancelled. */
static int stay(void* state, int complete) {
  (void)state, (void)complete;
  return MPI_SUCCESS;
}

static int start(Group* group, Job* job, MPI_Request* request) {
  int code;
  if (group->worker == NULL) group->worker = hire();
  if (group->worker == NULL) return MPI_ERR_NO_MEM;
  code = PMPI_Grequest_start(query, dispose, stay, job, &job->request);
  if (code != MPI_SUCCESS) return code;
  *request = job->request;
  atomic_fetch_add(&outstanding, 1);
  pthread_mutex_lock(&group->worker->lock);
  if (group->worker->last != NULL) {
    group->worker->last->next = job;
  } else {
    group->worker->first = job;
  }
  group->worker->last = job;
  group->worker->pending++;
  pthread_cond_signal(&group->worker->more);
  pthread_mutex_unlock(&group->worker->lock);
  return MPI_SUCCESS;
}

/* It must not wait for other ranks, and making a group would: a communicator without one stays with MPI here. */
PUBLIC int MPI_Iallreduce(const void* sendbuf, void* recvbuf, int number, MPI_Datatype datatype, MPI_Op op, MPI_Comm comm, MPI_Request* request) {
  Kind kind = {hfrInt8, 0};
  hfrRedOp_t redop = hfrSum;
  long long bytes;
  Reason reason;
  Group* group = NULL;
  Job* job;
  int code;
  if (!hfr_on()) return PMPI_Iallreduce(sendbuf, recvbuf, number, datatype, op, comm, request);
  hfr_settle();
  bytes = hfr_bytes(number, datatype);
  reason = hfr_reduction(datatype, op, &kind, &redop);
  if (reason == OURS && (bytes <= 0 || (size_t)bytes < hfr_least())) reason = BY_SIZE;
  if (reason == OURS && (group = hfr_group(comm, 0)) == NULL) reason = BY_COMMUNICATOR;
  hfr_count(IALLREDUCE, reason, bytes > 0 ? (size_t)bytes : 0);
  if (reason != OURS) return PMPI_Iallreduce(sendbuf, recvbuf, number, datatype, op, comm, request);
  job = calloc(1, sizeof *job);
  if (job == NULL) return MPI_ERR_NO_MEM;
  job->group = group;
  job->send = sendbuf == MPI_IN_PLACE ? recvbuf : sendbuf;
  job->recv = recvbuf;
  job->count = (size_t)number;
  job->type = kind.type;
  job->op = redop;
  job->error = MPI_SUCCESS;
  code = start(group, job, request);
  if (code != MPI_SUCCESS) free(job);
  return code;
}

/* ---- waiting -------------------------------------------------------------------------------------------------------------------------- */

/* While a request of ours is open nobody may stay inside MPI: it would not hear of its end. So waiting is testing, with rests in between that
 * end when a started call is done. */
static int must_test(void) { return hfr_on() && atomic_load(&outstanding) > 0; }

static void relax(int* turns) {
  struct timespec until;
  if (++*turns < 20) {
    sched_yield();
    return;
  }
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += 50000;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_nsec -= 1000000000L;
    until.tv_sec++;
  }
  pthread_mutex_lock(&done_lock);
  if (done == NULL) pthread_cond_timedwait(&done_more, &done_lock, &until);
  pthread_mutex_unlock(&done_lock);
}

/* Tests until flag is up or an error has come. */
#define UNTIL(flag, test)                                       \
  do {                                                          \
    int code_, turns_ = 0;                                      \
    for (;;) {                                                  \
      hfr_settle();                                             \
      code_ = (test);                                           \
      if (code_ != MPI_SUCCESS || (flag)) return code_;         \
      relax(&turns_);                                           \
    }                                                           \
  } while (0)

PUBLIC int MPI_Wait(MPI_Request* request, MPI_Status* status) {
  int flag = 0;
  if (!must_test()) return PMPI_Wait(request, status);
  UNTIL(flag, PMPI_Test(request, &flag, status));
}

PUBLIC int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[]) {
  int flag = 0;
  if (!must_test()) return PMPI_Waitall(count, requests, statuses);
  UNTIL(flag, PMPI_Testall(count, requests, &flag, statuses));
}

PUBLIC int MPI_Waitany(int count, MPI_Request requests[], int* index, MPI_Status* status) {
  int flag = 0;
  if (!must_test()) return PMPI_Waitany(count, requests, index, status);
  UNTIL(flag, PMPI_Testany(count, requests, index, &flag, status));
}

PUBLIC int MPI_Waitsome(int count, MPI_Request requests[], int* number, int indices[], MPI_Status statuses[]) {
  if (!must_test()) return PMPI_Waitsome(count, requests, number, indices, statuses);
  *number = 0;
  UNTIL(*number != 0, PMPI_Testsome(count, requests, number, indices, statuses));
}

PUBLIC int MPI_Test(MPI_Request* request, int* flag, MPI_Status* status) {
  hfr_settle();
  return PMPI_Test(request, flag, status);
}

PUBLIC int MPI_Testall(int count, MPI_Request requests[], int* flag, MPI_Status statuses[]) {
  hfr_settle();
  return PMPI_Testall(count, requests, flag, statuses);
}

PUBLIC int MPI_Testany(int count, MPI_Request requests[], int* index, int* flag, MPI_Status* status) {
  hfr_settle();
  return PMPI_Testany(count, requests, index, flag, status);
}

PUBLIC int MPI_Testsome(int count, MPI_Request requests[], int* number, int indices[], MPI_Status statuses[]) {
  hfr_settle();
  return PMPI_Testsome(count, requests, number, indices, statuses);
}

PUBLIC int MPI_Request_get_status(MPI_Request request, int* flag, MPI_Status* status) {
  hfr_settle();
  return PMPI_Request_get_status(request, flag, status);
}

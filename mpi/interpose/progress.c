/*
 * MPI makes progress only inside its calls. A rank that waits in hfreduce may owe another the rest of a message, and that other may have to
 * get it before it comes to the call that we wait for. So a thread, the keeper, calls MPI for us while somebody waits. It knows nothing of
 * what is waited for. Invariant: the keeper is inside MPI only while a thread of the program is between hfr_enter() and hfr_leave(), where that
 * thread is in no MPI call; so MPI_THREAD_SERIALIZED is enough.
 */
#include <stdatomic.h>
#include <time.h>

#include "interpose.h"

/* Between two looks; where one call is under way at two of them in a row, MPI is called more often. */
#define LOOK_NS 2000000L
#define WAIT_NS 100000L
/* Looks without a call after which the keeper sleeps. */
#define IDLE 20

static pthread_t keeper;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held while the keeper is in MPI */
static pthread_mutex_t bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t call = PTHREAD_COND_INITIALIZER;
static atomic_int inside, asleep, ended;
static atomic_ulong entered;
static MPI_Comm own = MPI_COMM_NULL;
static MPI_Request never; /* completes in hfr_progress_end() */
static int word;

void hfr_enter(void) {
  atomic_fetch_add(&entered, 1);
  atomic_fetch_add(&inside, 1);
  if (atomic_load(&asleep)) {
    pthread_mutex_lock(&bed);
    pthread_cond_signal(&call);
    pthread_mutex_unlock(&bed);
  }
}

void hfr_leave(void) {
  pthread_mutex_lock(&lock);
  atomic_fetch_sub(&inside, 1);
  pthread_mutex_unlock(&lock);
}

static void rest(long nanoseconds) {
  struct timespec time = {0, nanoseconds};
  nanosleep(&time, NULL);
}

/* Sleeps until somebody enters. */
static void sleep_on(void) {
  pthread_mutex_lock(&bed);
  atomic_store(&asleep, 1);
  while (atomic_load(&inside) == 0 && !atomic_load(&ended)) pthread_cond_wait(&call, &bed);
  atomic_store(&asleep, 0);
  pthread_mutex_unlock(&bed);
}

/* A test makes progress of everything, as long as its request is open. (A probe does so in Open MPI, but not in MPICH.) */
static int nudge(void) {
  int there, flag;
  pthread_mutex_lock(&lock);
  there = atomic_load(&inside) > 0;
  if (there) PMPI_Test(&never, &flag, MPI_STATUS_IGNORE);
  pthread_mutex_unlock(&lock);
  return there;
}

static void* keep(void* nothing) {
  unsigned long seen = 0;
  int idle = 0, waits = 0;
  while (!atomic_load(&ended)) {
    unsigned long now;
    rest(waits ? WAIT_NS : LOOK_NS);
    now = atomic_load(&entered);
    if (atomic_load(&inside) > 0) {
      /* The same number at two looks: no other call has begun, so somebody waits. */
      waits = nudge() && now == seen;
      idle = 0;
    } else {
      waits = 0;
      idle = now == seen ? idle + 1 : 0;
      if (idle >= IDLE) sleep_on();
    }
    seen = now;
  }
  return nothing;
}

int hfr_progress_begin(void) {
  int code = PMPI_Comm_dup(MPI_COMM_SELF, &own);
  if (code == MPI_SUCCESS) code = PMPI_Irecv(&word, 1, MPI_INT, 0, 0, own, &never);
  if (code != MPI_SUCCESS) return code;
  return pthread_create(&keeper, NULL, keep, NULL) == 0 ? MPI_SUCCESS : MPI_ERR_NO_MEM;
}

void hfr_progress_end(void) {
  atomic_store(&ended, 1);
  pthread_mutex_lock(&bed);
  pthread_cond_signal(&call);
  pthread_mutex_unlock(&bed);
  pthread_join(keeper, NULL);
  PMPI_Send(&(int){1}, 1, MPI_INT, 0, 0, own);
  PMPI_Wait(&never, MPI_STATUS_IGNORE);
  PMPI_Comm_free(&own);
}

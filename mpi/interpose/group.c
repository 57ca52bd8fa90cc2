/*
 * For each communicator of MPI one of hfreduce, made at the first collective that can use it and kept in an attribute. Knows no buffers.
 * Invariant: whether a communicator is taken over follows from its group alone, or is agreed on by all of its ranks; and a group is
 * destroyed when all ranks are done with it.
 */
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpose.h"

/* What rank 0 tells the others. */
typedef struct {
  hfrUniqueId id;
  int good;
} Meeting;

static int key = MPI_KEYVAL_INVALID;
static int error_class = MPI_ERR_OTHER;
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static Group* all; /* the newest first */

/* Ranks of a node must follow one another; ranks of other jobs are of no node that we know. */
static int by_node(MPI_Comm comm, int size) {
  MPI_Group group, world;
  int *own = malloc((size_t)size * sizeof *own), *there = malloc((size_t)size * sizeof *there);
  int i, j, good = own != NULL && there != NULL;
  for (i = 0; good && i < size; i++) own[i] = i;
  PMPI_Comm_group(comm, &group);
  PMPI_Comm_group(MPI_COMM_WORLD, &world);
  good = good && PMPI_Group_translate_ranks(group, size, own, world, there) == MPI_SUCCESS;
  for (i = 0; good && i < size; i++) good = there[i] != MPI_UNDEFINED;
  for (i = 1; good && i < size; i++) {
    if (hfr_node(there[i]) == hfr_node(there[i - 1])) continue;
    for (j = 0; good && j < i - 1; j++) good = hfr_node(there[j]) != hfr_node(there[i]);
  }
  PMPI_Group_free(&group);
  PMPI_Group_free(&world);
  free(own);
  free(there);
  return good;
}

static void say_once(const Group* group, const char* why, const char* remedy) {
  static atomic_flag said = ATOMIC_FLAG_INIT;
  if (group->rank == 0 && !atomic_flag_test_and_set(&said)) {
    hfr_say("a communicator of %d ranks stays with MPI: %s%s", group->size, why, remedy);
  }
}

/* Starts hfreduce's group; all ranks of comm are here. MPI knows no timeouts, so there is none unless it is asked for. */
static int join(Group* group, MPI_Comm comm) {
  hfrConfig_t config = HFR_CONFIG_INITIALIZER;
  Meeting meeting;
  int mine, good = 0;
  memset(&meeting, 0, sizeof meeting);
  if (getenv("HFR_TIMEOUT") == NULL) config.timeoutMs = INT_MAX;
  if (group->rank == 0) meeting.good = hfrGetUniqueId(&meeting.id) == hfrSuccess;
  if (PMPI_Bcast(&meeting, sizeof meeting, MPI_BYTE, 0, comm) != MPI_SUCCESS) return 0;
  /* Late ranks are waited for here, so that hfreduce's own time for them is long enough. */
  PMPI_Barrier(comm);
  mine = meeting.good && hfrCommInitRankConfig(&group->comm, group->size, meeting.id, group->rank, &config) == hfrSuccess;
  PMPI_Allreduce(&mine, &good, 1, MPI_INT, MPI_MIN, comm);
  if (good) return 1;
  /* The ranks that failed know why. */
  if (!mine && (meeting.good || group->rank == 0)) {
    hfr_say("rank %d of a communicator of %d ranks, which stays with MPI: %s", group->rank, group->size, hfrGetLastError(NULL));
  }
  if (mine) hfrCommDestroy(group->comm);
  group->comm = NULL;
  return 0;
}

static void enlist(Group* group) {
  pthread_mutex_lock(&all_lock);
  group->after = all;
  if (all != NULL) all->before = group;
  all = group;
  pthread_mutex_unlock(&all_lock);
}

static void strike(Group* group) {
  pthread_mutex_lock(&all_lock);
  if (group->before != NULL) group->before->after = group->after;
  if (group->after != NULL) group->after->before = group->before;
  if (all == group) all = group->after;
  group->before = group->after = NULL;
  pthread_mutex_unlock(&all_lock);
}

static Group* make_group(MPI_Comm comm) {
  Group* group = calloc(1, sizeof *group);
  int inter = 0;
  if (group == NULL) return NULL;
  group->error = MPI_SUCCESS;
  pthread_mutex_init(&group->lock, NULL);
  PMPI_Comm_size(comm, &group->size);
  PMPI_Comm_rank(comm, &group->rank);
  PMPI_Comm_test_inter(comm, &inter);
  if (!inter && group->size > 1) {
    if (by_node(comm, group->size)) {
      group->taken = join(group, comm);
    } else {
      say_once(group, "its ranks are not numbered node by node", " (mpirun --map-by slot)");
    }
  }
  enlist(group);
  PMPI_Comm_set_attr(comm, key, group);
  return group;
}

Group* hfr_group(MPI_Comm comm, int make) {
  Group* group = NULL;
  int there = 0;
  if (comm == MPI_COMM_NULL || comm == MPI_COMM_SELF) return NULL;
  if (PMPI_Comm_get_attr(comm, key, &group, &there) != MPI_SUCCESS) return NULL;
  if (!there) group = make ? make_group(comm) : NULL;
  return group != NULL && group->taken ? group : NULL;
}

/* All ranks come here: who left early would be missed by those who are still in the last call. */
static void end(Group* group) {
  if (!group->taken) return;
  hfr_dismiss(group);
  if (group->error == MPI_SUCCESS) {
    hfr_enter();
    hfrBarrier(group->comm, NULL);
    hfr_leave();
  }
  hfrCommDestroy(group->comm);
  group->taken = 0;
}

/* The communicator is freed. */
static int forget(MPI_Comm comm, int keyval, void* value, void* extra) {
  Group* group = value;
  (void)comm, (void)keyval, (void)extra;
  strike(group);
  end(group);
  pthread_mutex_destroy(&group->lock);
  free(group);
  return MPI_SUCCESS;
}

int hfr_groups_begin(void) {
  int code = PMPI_Add_error_class(&error_class);
  if (code != MPI_SUCCESS) return code;
  PMPI_Add_error_string(error_class, "a collective that runs over hfreduce failed");
  return PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, forget, &key, NULL);
}

void hfr_groups_end(void) {
  Group* group;
  for (group = all; group != NULL; group = group->after) end(group);
}

int hfr_failure(Group* group, Call call) {
  pthread_mutex_lock(&group->lock);
  if (group->error == MPI_SUCCESS) {
    char text[MPI_MAX_ERROR_STRING];
    int code = error_class;
    snprintf(text, sizeof text, "%s: %s", hfr_call_name(call), hfrGetLastError(group->comm));
    /* Every rank has the same text. */
    if (group->rank == 0) hfr_say("%s", text);
    if (PMPI_Add_error_code(error_class, &code) == MPI_SUCCESS) PMPI_Add_error_string(code, text);
    group->error = code;
  }
  pthread_mutex_unlock(&group->lock);
  return group->error;
}

int hfr_raise(MPI_Comm comm, Group* group, Call call) {
  int code = hfr_failure(group, call);
  PMPI_Comm_call_errhandler(comm, code);
  return code;
}

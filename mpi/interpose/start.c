/*
 * Begin and end: MPI_Init and its like, MPI_Finalize, and the settings, on which all ranks agree. Knows no communicator but MPI_COMM_WORLD.
 * Invariant: calls are taken over only between begin and end, and only where every rank of the job has this library and wants it.
 */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "interpose.h"

#ifdef OPEN_MPI
#define BUILT_FOR "Open MPI"
#else
#define BUILT_FOR "MPICH"
#endif

/* Ranks without this library never answer: after so many seconds the others say what they wait for. */
#define PATIENCE 10

/* Below this MPI's own way through shared memory was faster where each rank had a core: see docs/mpi.md. */
#define LEAST 8192

/* What each rank brings. */
typedef struct {
  unsigned long long node[2];
  unsigned long long least;
  int on, good;
} Self;

static atomic_int on;
static size_t least;
static int threads = MPI_THREAD_SINGLE;
static int* nodes;

int hfr_on(void) { return atomic_load_explicit(&on, memory_order_acquire); }
size_t hfr_least(void) { return least; }
int hfr_node(int world_rank) { return nodes[world_rank]; }

void hfr_say(const char* format, ...) {
  char line[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  fprintf(stderr, "hfr: %s\n", line);
}

/* Two hashes (FNV-1a, with different beginnings) of what hfreduce takes for the node: HFR_NODE, or host and boot. */
static void node_of(unsigned long long hash[2]) {
  const char* claimed = getenv("HFR_NODE");
  char text[512] = "", boot[64] = "";
  struct utsname system;
  size_t i;
  int half;
  if (claimed != NULL && claimed[0] != '\0') {
    snprintf(text, sizeof text, "claimed %s", claimed);
  } else {
    FILE* file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file != NULL) {
      if (fgets(boot, sizeof boot, file) == NULL) boot[0] = '\0';
      fclose(file);
    }
    uname(&system);
    snprintf(text, sizeof text, "%s %s", system.nodename, boot);
  }
  for (half = 0; half < 2; half++) {
    hash[half] = 0xcbf29ce484222325ULL + (unsigned long long)half;
    for (i = 0; text[i] != '\0'; i++) hash[half] = (hash[half] ^ (unsigned char)text[i]) * 0x100000001b3ULL;
  }
}

static void read_settings(Self* self) {
  const char* text = getenv("HFR_MPI");
  char* end = NULL;
  self->on = text == NULL || strcmp(text, "off") != 0;
  self->good = 1;
  if (text != NULL && strcmp(text, "off") != 0 && strcmp(text, "on") != 0 && text[0] != '\0') {
    hfr_say("HFR_MPI=%s is neither on nor off", text);
    self->good = 0;
  }
  self->least = LEAST;
  text = getenv("HFR_MPI_MIN_BYTES");
  if (text == NULL || text[0] == '\0') return;
  self->least = strtoull(text, &end, 10);
  if (*end != '\0' || text[0] == '-') {
    hfr_say("HFR_MPI_MIN_BYTES=%s is no number of bytes", text);
    self->good = 0;
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Everybody's Self; says so if ranks do not come. */
static int gather(const Self* mine, Self* theirs) {
  double begin = now();
  MPI_Request request;
  int flag = 0, said = 0;
  int code = PMPI_Iallgather(mine, sizeof *mine, MPI_BYTE, theirs, sizeof *mine, MPI_BYTE, MPI_COMM_WORLD, &request);
  while (code == MPI_SUCCESS && !flag) {
    struct timespec pause = {0, 50000};
    code = PMPI_Test(&request, &flag, MPI_STATUS_IGNORE);
    if (!flag) nanosleep(&pause, NULL);
    if (!said && now() - begin > PATIENCE) {
      said = 1;
      hfr_say("still waiting for other ranks in MPI_Init: start all of them with libhfr_mpi.so in LD_PRELOAD, or none");
    }
  }
  return code;
}

/* Numbers of nodes, in the order in which ranks come to them. The last rank's node is looked at first: ranks mostly stand node by node. */
static void number_nodes(const Self* selves, int size) {
  int rank, other;
  for (rank = 0; rank < size; rank++) {
    nodes[rank] = rank;
    for (other = rank - 1; other >= 0; other--) {
      /* Only the first rank of a node has its own number. */
      if (other != rank - 1 && nodes[other] != other) continue;
      if (memcmp(selves[other].node, selves[rank].node, sizeof selves[rank].node) == 0) {
        nodes[rank] = nodes[other];
        break;
      }
    }
  }
}

/* All ranks come here, and all find the same. */
static void begin(void) {
  Self mine, *selves;
  int size = 1, rank = 0, i, wanted = 1;
  memset(&mine, 0, sizeof mine);
  PMPI_Comm_size(MPI_COMM_WORLD, &size);
  PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
  PMPI_Query_thread(&threads);
  read_settings(&mine);
  node_of(mine.node);
  selves = calloc((size_t)size, sizeof *selves);
  nodes = calloc((size_t)size, sizeof *nodes);
  mine.good = mine.good && selves != NULL && nodes != NULL;
  if (!mine.good || gather(&mine, selves) != MPI_SUCCESS) {
    hfr_say("rank %d cannot begin", rank);
    PMPI_Abort(MPI_COMM_WORLD, 1);
    return;
  }
  for (i = 0; i < size; i++) wanted = wanted && selves[i].on;
  /* What all ranks must have alike is rank 0's. */
  least = selves[0].least;
  number_nodes(selves, size);
  free(selves);
  if (!wanted) return;
  if (threads < MPI_THREAD_SERIALIZED) {
    if (rank == 0) hfr_say("all calls stay with MPI: it was built without support for threads");
    return;
  }
  if (hfr_progress_begin() == MPI_SUCCESS && hfr_groups_begin() == MPI_SUCCESS) {
    atomic_store_explicit(&on, 1, memory_order_release);
  } else {
    hfr_say("rank %d cannot begin: no memory or no thread", rank);
    PMPI_Abort(MPI_COMM_WORLD, 1);
  }
}

/* Handles of another MPI would be read as what they are not. */
static void check_library(void) {
  static char version[1 << 16];
  int length = 0;
  PMPI_Get_library_version(version, &length);
  if ((strstr(version, "Open MPI") != NULL) == (strcmp(BUILT_FOR, "Open MPI") == 0)) return;
  version[strcspn(version, "\n,")] = '\0';
  hfr_say("this libhfr_mpi.so was built for " BUILT_FOR ", the program runs with %.60s: preload the one built for that", version);
  exit(1);
}

PUBLIC int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  /* The keeper (progress.c) calls MPI while no other thread does, which is more than MPI_THREAD_FUNNELED. */
  int code, level = required < MPI_THREAD_SERIALIZED ? MPI_THREAD_SERIALIZED : required;
  check_library();
  code = PMPI_Init_thread(argc, argv, level, provided);
  if (code == MPI_SUCCESS) begin();
  return code;
}

PUBLIC int MPI_Init(int* argc, char*** argv) {
  int provided;
  return MPI_Init_thread(argc, argv, MPI_THREAD_SINGLE, &provided);
}

PUBLIC int MPI_Finalize(void) {
  if (hfr_on()) {
    hfr_groups_end();
    hfr_print_stats();
    atomic_store_explicit(&on, 0, memory_order_release);
    hfr_progress_end();
    /* MPICH 4.0 may wait for ever here, over sockets, for ranks that come at other times; our own work has moved them apart. */
    PMPI_Barrier(MPI_COMM_WORLD);
  }
  free(nodes);
  nodes = NULL;
  return PMPI_Finalize();
}

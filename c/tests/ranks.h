/*
 * ranks.h: plays jobs for the test programs. Forks a process per rank, hands the identity around, joins, runs a body, and judges how the ranks
 * end. Knows nothing of what bodies do. Invariants: no rank outlives its time or the program; a rank that fails says where and why; the
 * program itself never calls the library, so that its forks are clean.
 */
#ifndef RANKS_H_
#define RANKS_H_

/* Who has other names for the interface has included it, and said what ours are there. */
#ifndef RANKS_NAMES
#include <hfreduce.h>
#endif

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How a rank joins; something else for those who have to do something before. */
#ifndef RANKS_JOIN
#define RANKS_JOIN hfrCommInitRank
#endif

/* Seconds after which a rank is ended. */
#define LIFETIME 60

/* One rank of a job. */
typedef struct {
  int rank;
  int ranks;
  hfrComm_t comm;
  hfrUniqueId id;
  int words[2]; /* a pipe that all ranks have, for what must not go through the library */
} Rank;

typedef void (*Body)(Rank* self);

/* A job: ranks on nodes of equal size; in a raw one the body joins by itself. */
typedef struct {
  const char* name;
  int ranks;
  int nodes;
  int raw;
  int killed; /* the rank that is to be killed, or -1 */
  Body body;
} Case;

#define CHECK(what, ...)                                          \
  do {                                                            \
    if (!(what)) {                                                \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #what);  \
      fprintf(stderr, __VA_ARGS__);                               \
      fprintf(stderr, "\n");                                      \
      _exit(1);                                                   \
    }                                                             \
  } while (0)

/* A call that must come to code. */
#define EXPECT(code, call)                                                                                        \
  do {                                                                                                            \
    hfrResult_t result_ = (call);                                                                                 \
    CHECK(result_ == (code), "%s (%d): %s", hfrGetErrorString(result_), (int)result_, hfrGetLastError(NULL));     \
  } while (0)

#define OK(call) EXPECT(hfrSuccess, call)

/* A call that must be refused as an argument, with a text that has word. */
#define REFUSED(word, call) FAILS(hfrInvalidArgument, word, call)

#define FAILS(code, word, call)                                                                     \
  do {                                                                                              \
    EXPECT(code, call);                                                                             \
    CHECK(strstr(hfrGetLastError(NULL), word) != NULL, "no `%s` in: %s", word, hfrGetLastError(NULL)); \
  } while (0)

static inline void rest(long milliseconds) {
  struct timespec time;
  time.tv_sec = milliseconds / 1000;
  time.tv_nsec = milliseconds % 1000 * 1000000;
  nanosleep(&time, NULL);
}

/* Waits until nothing is under way on comm; what has come of it. */
static inline hfrResult_t settled(hfrComm_t comm) {
  hfrResult_t state = hfrInProgress;
  while (state == hfrInProgress) {
    OK(hfrCommGetAsyncError(comm, &state));
    rest(1);
  }
  return state;
}

/* Rank `last` goes on when all others have come here; they do not wait. */
static inline void behind_all(Rank* self, int last) {
  char word = 'w';
  int i;
  if (self->rank != last) {
    CHECK(write(self->words[1], &word, 1) == 1, "the pipe is full");
  } else {
    for (i = 1; i < self->ranks; i++) CHECK(read(self->words[0], &word, 1) == 1, "no word came");
  }
}

static inline void pass_identity(Rank* self) {
  int i;
  if (self->rank == 0) {
    OK(hfrGetUniqueId(&self->id));
    for (i = 1; i < self->ranks; i++) {
      CHECK(write(self->words[1], &self->id, sizeof self->id) == (ssize_t)sizeof self->id, "the pipe is full");
    }
  } else {
    CHECK(read(self->words[0], &self->id, sizeof self->id) == (ssize_t)sizeof self->id, "no identity came");
  }
}

static inline void play(const Case* of, int rank, const int words[2]) {
  Rank self;
  char node[32];
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(LIFETIME);
  snprintf(node, sizeof node, "node %d", rank * of->nodes / of->ranks);
  setenv("HFR_NODE", node, 1);
  memset(&self, 0, sizeof self);
  self.rank = rank;
  self.ranks = of->ranks;
  self.words[0] = words[0];
  self.words[1] = words[1];
  pass_identity(&self);
  if (!of->raw) OK(RANKS_JOIN(&self.comm, of->ranks, self.id, rank));
  of->body(&self);
  if (!of->raw) OK(hfrCommDestroy(self.comm));
  fflush(NULL);
  _exit(0);
}

/* Runs a case; whether all its ranks ended as they should. */
static inline int run_case(const Case* of) {
  int words[2], rank, good = 1;
  pid_t ranks[16];
  fflush(NULL);
  if (of->ranks > 16 || pipe(words) != 0) return 0;
  for (rank = 0; rank < of->ranks; rank++) {
    ranks[rank] = fork();
    if (ranks[rank] == 0) play(of, rank, words);
    if (ranks[rank] < 0) return 0;
  }
  for (rank = 0; rank < of->ranks; rank++) {
    int status = 0, as_meant;
    waitpid(ranks[rank], &status, 0);
    as_meant = rank == of->killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                                  : WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!as_meant) {
      fprintf(stderr, "%s: rank %d ended with status %#x\n", of->name, rank, (unsigned)status);
      good = 0;
    }
  }
  close(words[0]);
  close(words[1]);
  return good;
}

/* Runs cases, those whose name has filter if it is not NULL, and tells as cargo test does; the program's exit code. */
static inline int run_cases(const Case* cases, size_t count, const char* filter) {
  size_t i;
  int passed = 0, failed = 0, left_out = 0;
  for (i = 0; i < count; i++) {
    int good;
    if (filter != NULL && strstr(cases[i].name, filter) == NULL) {
      left_out++;
      continue;
    }
    good = run_case(&cases[i]);
    printf("test %s (%d ranks, %d nodes) ... %s\n", cases[i].name, cases[i].ranks, cases[i].nodes, good ? "ok" : "FAILED");
    if (good) {
      passed++;
    } else {
      failed++;
    }
  }
  printf("\ntest result: %s. %d passed; %d failed; 0 ignored; 0 measured; %d filtered out\n", failed ? "FAILED" : "ok", passed,
         failed, left_out);
  return failed != 0 || passed == 0;
}

#endif /* RANKS_H_ */

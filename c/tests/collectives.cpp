// collectives.cpp: the C interface from C++17: a communicator that ends itself, errors as exceptions, ranks as threads of one process and as
// processes. Knows of the library what the header says. Invariant: no input is 0 everywhere, every element is compared, and every thread is joined.
#include "ranks.h"

#include <array>
#include <atomic>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

// What a call came to, with the library's text.
struct Error : std::runtime_error {
  hfrResult_t code;
  Error(hfrResult_t result, const std::string& text) : std::runtime_error(text), code(result) {}
};

template <class T> constexpr hfrDataType_t type_of();
template <> constexpr hfrDataType_t type_of<std::int8_t>() { return hfrInt8; }
template <> constexpr hfrDataType_t type_of<std::uint64_t>() { return hfrUint64; }
template <> constexpr hfrDataType_t type_of<std::int32_t>() { return hfrInt32; }
template <> constexpr hfrDataType_t type_of<float>() { return hfrFloat32; }
template <> constexpr hfrDataType_t type_of<double>() { return hfrFloat64; }

// Owns a communicator: destroyed with it, also when an exception is on its way.
class Comm {
 public:
  Comm(int ranks, const hfrUniqueId& id, int rank, const hfrConfig_t* config = nullptr) {
    check(hfrCommInitRankConfig(&comm_, ranks, id, rank, config));
  }
  explicit Comm(hfrComm_t comm) : comm_(comm) {}
  Comm(Comm&& other) noexcept : comm_(std::exchange(other.comm_, nullptr)) {}
  Comm& operator=(Comm&&) = delete;
  ~Comm() { hfrCommDestroy(comm_); }

  operator hfrComm_t() const { return comm_; }
  int rank() const { return number(hfrCommUserRank); }
  int size() const { return number(hfrCommCount); }

  template <class T> void all_reduce(std::vector<T>& buffer, hfrRedOp_t op = hfrSum) const {
    check(hfrAllReduce(buffer.data(), buffer.data(), buffer.size(), type_of<T>(), op, comm_, nullptr));
  }
  Comm split(int color, int key) const {
    hfrComm_t part = nullptr;
    check(hfrCommSplit(comm_, color, key, &part, nullptr));
    return Comm(part);
  }
  void abort() { check(hfrCommAbort(std::exchange(comm_, nullptr))); }
  void check(hfrResult_t result) const {
    if (result != hfrSuccess) throw Error(result, hfrGetLastError(nullptr));
  }

 private:
  template <class F> int number(F of) const {
    int value = -1;
    check(of(comm_, &value));
    return value;
  }
  hfrComm_t comm_ = nullptr;
};

constexpr int RANKS = 4;

// The class of errors that f throws.
hfrResult_t thrown(const std::function<void()>& f, std::string* text = nullptr) {
  try {
    f();
  } catch (const Error& error) {
    if (text != nullptr) *text = error.what();
    return error.code;
  }
  return hfrSuccess;
}

template <class T> void sums(const Comm& comm, std::size_t count) {
  std::vector<T> buffer(count);
  for (std::size_t i = 0; i < count; i++) buffer[i] = static_cast<T>((i % 5 + 1) * static_cast<std::size_t>(comm.rank() + 1));
  comm.all_reduce(buffer);
  const auto factor = static_cast<std::size_t>(comm.size() * (comm.size() + 1) / 2);
  for (std::size_t i = 0; i < count; i++) {
    CHECK(buffer[i] == static_cast<T>((i % 5 + 1) * factor), "element %zu is %g", i, static_cast<double>(buffer[i]));
  }
}

void everything(const Comm& comm) {
  for (std::size_t count : {0u, 1u, 77u, 40000u}) {
    sums<std::int8_t>(comm, count);
    sums<std::int32_t>(comm, count);
    sums<std::uint64_t>(comm, count);
    sums<float>(comm, count);
    sums<double>(comm, count);
  }
  // A ring both ways at a time.
  const int next = (comm.rank() + 1) % comm.size(), before = (comm.rank() + comm.size() - 1) % comm.size();
  std::vector<double> mine(1000, comm.rank() + 0.5), left(1000), right(1000);
  comm.check(hfrGroupStart());
  comm.check(hfrSend(mine.data(), mine.size(), hfrDouble, next, comm, nullptr));
  comm.check(hfrSend(mine.data(), mine.size(), hfrDouble, before, comm, nullptr));
  comm.check(hfrRecv(left.data(), left.size(), hfrDouble, before, comm, nullptr));
  comm.check(hfrRecv(right.data(), right.size(), hfrDouble, next, comm, nullptr));
  comm.check(hfrGroupEnd());
  CHECK(left == std::vector<double>(1000, before + 0.5), "%g from the left", left[0]);
  CHECK(right == std::vector<double>(1000, next + 0.5), "%g from the right", right[0]);
}

void processes(Rank* self) {
  Comm comm(self->ranks, self->id, self->rank);
  everything(comm);
  Comm half = comm.split(comm.rank() % 2, -comm.rank());
  CHECK(half.size() == 2 && half.rank() == 1 - comm.rank() / 2, "rank %d of %d", half.rank(), half.size());
  everything(half);
  comm.check(hfrBarrier(comm, nullptr));
}

// Runs f on a thread per rank, each with its communicator.
void with_threads(const hfrUniqueId& id, const std::function<void(Comm&, int)>& f, bool two_nodes) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < RANKS; rank++) {
    threads.emplace_back([&, rank] {
      hfrConfig_t config = HFR_CONFIG_INITIALIZER;
      config.timeoutMs = 30000;
      config.node = two_nodes && rank >= RANKS / 2 ? "right" : "left";
      Comm comm(RANKS, id, rank, &config);
      f(comm, rank);
    });
  }
  for (auto& thread : threads) thread.join();
}

void threads(Rank* self) {
  with_threads(self->id, [](Comm& comm, int rank) {
    CHECK(comm.rank() == rank && comm.size() == RANKS, "rank %d of %d", comm.rank(), comm.size());
    everything(comm);
  }, false);
}

void threads_on_two_nodes(Rank* self) {
  with_threads(self->id, [](Comm& comm, int) { everything(comm); }, true);
}

// One thread is all ranks: everything it does for them stands in groups.
void one_thread(Rank* self) {
  std::array<hfrComm_t, RANKS> comms{}, turned{};
  OK(hfrGroupStart());
  for (int r = 0; r < RANKS; r++) OK(hfrCommInitRank(&comms[r], RANKS, self->id, r));
  FAILS(hfrInvalidUsage, "still starts", hfrBarrier(comms[0], nullptr));
  EXPECT(hfrInvalidUsage, hfrGroupEnd());
  for (hfrComm_t comm : comms) {
    hfrResult_t state = hfrSuccess;
    OK(hfrCommGetAsyncError(comm, &state));
    CHECK(state == hfrSystemError, "started although its group was refused: %s", hfrGetErrorString(state));
    OK(hfrCommDestroy(comm));
  }
  OK(hfrGroupStart());
  for (int r = 0; r < RANKS; r++) OK(hfrCommInitRank(&comms[r], RANKS, self->id, r));
  OK(hfrGroupEnd());

  std::array<std::vector<float>, RANKS> buffers, gathered;
  OK(hfrGroupStart());
  for (int r = 0; r < RANKS; r++) {
    buffers[r].assign(5000, static_cast<float>(r + 1));
    gathered[r].assign(5000 * RANKS, -1.0f);
    OK(hfrAllGather(buffers[r].data(), gathered[r].data(), 5000, hfrFloat, comms[r], nullptr));
    OK(hfrCommSplit(comms[r], 0, -r, &turned[r], nullptr));
  }
  OK(hfrGroupEnd());
  // A ring of the turned ranks.
  OK(hfrGroupStart());
  for (int r = 0; r < RANKS; r++) {
    const int own = RANKS - 1 - r;
    int rank = -1;
    OK(hfrCommUserRank(turned[r], &rank));
    CHECK(rank == own, "rank %d became %d", r, rank);
    for (int i = 0; i < 5000 * RANKS; i++) {
      CHECK(gathered[r][i] == static_cast<float>(i / 5000 + 1), "element %d is %g", i, static_cast<double>(gathered[r][i]));
    }
    OK(hfrSend(buffers[r].data(), 5000, hfrFloat, (own + 1) % RANKS, turned[r], nullptr));
    OK(hfrRecv(gathered[r].data(), 5000, hfrFloat, (own + RANKS - 1) % RANKS, turned[r], nullptr));
  }
  OK(hfrGroupEnd());
  for (int r = 0; r < RANKS; r++) {
    // The turned rank before is the one behind.
    const auto right = static_cast<float>((r + 1) % RANKS + 1);
    for (int i = 0; i < 5000; i++) CHECK(gathered[r][i] == right, "element %d is %g", i, static_cast<double>(gathered[r][i]));
  }
  for (int r = 0; r < RANKS; r++) OK(hfrCommDestroy(turned[r]));
  for (int r = 0; r < RANKS; r++) OK(hfrCommDestroy(comms[r]));
}

// A thread that waits in a call is freed when another aborts; every rank learns it.
void abort_from_another_thread(Rank* self) {
  with_threads(self->id, [](Comm& comm, int rank) {
    everything(comm);
    std::vector<float> buffer(10, 1.0f);
    if (rank == 3) {
      const hfrComm_t handle = comm;
      std::thread other([&] {
        rest(200);
        comm.abort();
      });
      // Rank 3 waits for a message that nobody sends.
      const hfrResult_t code = hfrRecv(buffer.data(), 10, hfrFloat, 0, handle, nullptr);
      other.join();
      CHECK(code == hfrRemoteError, "%s", hfrGetErrorString(code));
      return;
    }
    std::string text;
    const hfrResult_t code = thrown([&] { comm.all_reduce(buffer); }, &text);
    CHECK(code == hfrRemoteError && text.find("abort") != std::string::npos, "%s", text.c_str());
  }, false);
}

// Two communicators on two threads of each rank: they do not hold each other up, and failures are kept apart.
void two_at_a_time(Rank* self) {
  Comm first(self->ranks, self->id, self->rank), second = first.split(0, 0);
  std::atomic<int> done{0};
  std::thread other([&] {
    for (int i = 0; i < 20; i++) everything(second);
    CHECK(std::string(hfrGetLastError(nullptr)).empty(), "another thread's failure: %s", hfrGetLastError(nullptr));
    done++;
  });
  std::string text;
  CHECK(thrown([&] { first.check(hfrBcast(nullptr, 3, hfrFloat, 0, first, nullptr)); }, &text) == hfrInvalidArgument, "%s", text.c_str());
  CHECK(text.find("hfrBcast") != std::string::npos, "%s", text.c_str());
  for (int i = 0; i < 20; i++) everything(first);
  other.join();
  CHECK(done == 1 && std::string(hfrGetLastError(second)).empty(), "%s", hfrGetLastError(second));
}

// Threads that make, use and destroy communicators while another tries whatever handle it sees: it is told, and nothing else happens.
void destroyed_in_use(Rank* self) {
  (void)self;
  std::atomic<hfrComm_t> seen{nullptr};
  std::atomic<bool> over{false};
  std::size_t good = 0, stale = 0;
  std::thread other([&] {
    while (!over || good + stale < 1000) {
      std::array<float, 3> three{1, 2, 3};
      const hfrResult_t result = hfrAllReduce(three.data(), three.data(), 3, hfrFloat, hfrSum, seen.load(), nullptr);
      CHECK(result == hfrSuccess || result == hfrInvalidArgument || result == hfrInvalidUsage, "%s", hfrGetLastError(nullptr));
      (result == hfrSuccess ? good : stale)++;
    }
  });
  std::vector<std::thread> makers;
  for (int t = 0; t < 3; t++) {
    makers.emplace_back([&seen] {
      for (int i = 0; i < 30; i++) {
        hfrUniqueId id;
        OK(hfrGetUniqueId(&id));
        Comm comm(1, id, 0);
        seen = comm;
        for (int k = 0; k < 20; k++) sums<float>(comm, 100);
      }
    });
  }
  for (auto& maker : makers) maker.join();
  over = true;
  other.join();
  CHECK(good > 0 && stale > 0, "%zu calls on good handles, %zu on stale ones", good, stale);
}

}  // namespace

int main(int argc, char** argv) {
  static const Case cases[] = {
      {"processes", RANKS, 1, 1, -1, processes},
      {"processes", RANKS, 2, 1, -1, processes},
      {"threads", 1, 1, 1, -1, threads},
      {"threads_on_two_nodes", 1, 1, 1, -1, threads_on_two_nodes},
      {"one_thread", 1, 1, 1, -1, one_thread},
      {"abort_from_another_thread", 1, 1, 1, -1, abort_from_another_thread},
      {"destroyed_in_use", 1, 1, 1, -1, destroyed_in_use},
      {"two_at_a_time", RANKS, 2, 1, -1, two_at_a_time},
  };
  return run_cases(cases, sizeof cases / sizeof cases[0], argc > 1 ? argv[1] : nullptr);
}

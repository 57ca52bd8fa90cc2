//! Doorbells, counters and the waiting policy on a real kernel: between threads, between processes, on the futex and in poll.
//! A lost wake-up shows as a wait that ends by its (generous) timeout, which the tests take for a failure.

use hfr_transport::shm::{
    Board, DOORBELL_BYTES, Doorbell, FdServer, Segment, Waiter, fetch_fds, random_token,
    unique_address,
};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROLE: &str = "HFR_TEST_BELL_ROLE";
const ROUNDS: u64 = 4000;
/// Where the board begins: behind two doorbells.
const BOARD: usize = 2 * DOORBELL_BYTES;

/// One side of ping-pong: its own doorbell, the other's, and a board with one counter for each.
struct Side {
    me: usize,
    bells: [Doorbell; 2],
    board: Board,
    /// Never readable; makes the doorbell sleep in poll where there is one.
    watch: Option<OwnedFd>,
}

impl Side {
    fn new(me: usize, segment: Arc<Segment>, events: [OwnedFd; 2], in_poll: bool) -> Side {
        let mut events = events.map(Some);
        let bells =
            [0, 1].map(|i| Doorbell::new(segment.clone(), i * DOORBELL_BYTES, events[i].take()));
        Side {
            me,
            bells,
            board: Board::new(segment, BOARD, 2),
            watch: in_poll.then(|| Doorbell::event().unwrap()),
        }
    }

    fn play(&self, seed: u64) {
        let mut random = seed;
        for round in 1..=ROUNDS {
            if self.me == 1 {
                self.await_other(round, &mut random);
            }
            self.board.store(self.me, round);
            self.bells[1 - self.me].ring();
            if self.me == 0 {
                self.await_other(round, &mut random);
            }
        }
    }

    fn await_other(&self, round: u64, random: &mut u64) {
        *random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        // Different pauses hit different places of the other's path.
        let waiter =
            Waiter::with_pauses((*random >> 33) as u32 % 200 * u32::from(*random >> 62 != 0));
        let watch: Vec<(RawFd, bool)> = self
            .watch
            .iter()
            .map(|fd| (fd.as_raw_fd(), false))
            .collect();
        let limit = Instant::now() + Duration::from_secs(10);
        let ready = || self.board.load(1 - self.me) >= round;
        while !waiter
            .wait(
                &self.bells[self.me],
                Some(Duration::from_secs(10)),
                &watch,
                ready,
            )
            .unwrap()
        {
            assert!(
                Instant::now() < limit,
                "a wake-up was lost in round {round}"
            );
        }
        assert!(
            Instant::now() < limit,
            "a wake-up was lost in round {round}"
        );
        assert_eq!(self.board.load(1 - self.me), round);
    }
}

fn copy(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap()
}

fn segment() -> Arc<Segment> {
    Arc::new(Segment::create("hfr-bells", 4096).unwrap())
}

#[test]
fn ping_pong_between_threads() {
    // Each side sleeps its own way, in all four pairs.
    for kinds in [[false, false], [true, true], [false, true], [true, false]] {
        let (segment, events) = (
            segment(),
            [Doorbell::event().unwrap(), Doorbell::event().unwrap()],
        );
        std::thread::scope(|scope| {
            for me in [0, 1] {
                let side = Side::new(
                    me,
                    segment.clone(),
                    [copy(&events[0]), copy(&events[1])],
                    kinds[me],
                );
                scope.spawn(move || side.play(17 + me as u64));
            }
        });
    }
}

/// Not a test of its own: the other process of `ping_pong_between_processes`.
#[test]
fn child_entry() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let token =
        std::array::from_fn(|i| u8::from_str_radix(&words[1][2 * i..2 * i + 2], 16).unwrap());
    let fds = fetch_fds(words[0], &token, Instant::now() + Duration::from_secs(20)).unwrap();
    let [shared, first, second]: [OwnedFd; 3] = fds.try_into().unwrap();
    let segment = Arc::new(Segment::attach(shared).unwrap());
    Side::new(1, segment, [first, second], words[2] == "poll").play(99);
}

#[test]
fn ping_pong_between_processes() {
    for how in ["futex", "poll"] {
        let (segment, events) = (
            segment(),
            [Doorbell::event().unwrap(), Doorbell::event().unwrap()],
        );
        let (address, token) = (unique_address("bells").unwrap(), random_token().unwrap());
        let shared = segment.fd().unwrap().try_clone_to_owned().unwrap();
        let _server = FdServer::start(
            &address,
            token,
            vec![shared, copy(&events[0]), copy(&events[1])],
        )
        .unwrap();
        let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_entry"])
            .env(ROLE, format!("{address} {hex} {how}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Side::new(0, segment, events, how == "poll").play(5);
        assert!(child.wait().unwrap().success());
    }
}

/// Processor time of the calling thread.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn a_parked_rank_takes_no_processor_time() {
    let quiet = Doorbell::event().unwrap();
    let bell = Doorbell::new(segment(), 64, Some(Doorbell::event().unwrap()));
    for watch in [vec![], vec![(quiet.as_raw_fd(), false)]] {
        let (start, before) = (Instant::now(), cpu_time());
        while start.elapsed() < Duration::from_millis(200) {
            let left = Duration::from_millis(201).saturating_sub(start.elapsed());
            let ready = Waiter::new(8, 2)
                .wait(&bell, Some(left), &watch, || false)
                .unwrap();
            assert!(!ready);
        }
        let used = cpu_time() - before;
        assert!(
            used < Duration::from_millis(20),
            "{used:?} of processor time in 200 ms of sleep"
        );
    }
}

#[test]
fn a_watched_socket_ends_the_sleep_and_what_is_ready_prevents_it() {
    let bell = Doorbell::new(segment(), 0, Some(Doorbell::event().unwrap()));
    let socket = Doorbell::event().unwrap();
    let long = Some(Duration::from_secs(30));
    let start = Instant::now();
    // An eventfd is writable from the start, and readable once written.
    assert!(
        !bell
            .park(long, &[(socket.as_raw_fd(), true)], || false)
            .unwrap()
    );
    rustix::io::write(&socket, &1_u64.to_ne_bytes()).unwrap();
    assert!(
        !bell
            .park(long, &[(socket.as_raw_fd(), false)], || false)
            .unwrap()
    );
    assert!(bell.park(long, &[], || true).unwrap());
    assert!(start.elapsed() < Duration::from_secs(20));
    let deaf = Doorbell::new(segment(), 0, None);
    assert!(
        deaf.park(long, &[(socket.as_raw_fd(), false)], || false)
            .unwrap_err()
            .cause
            .contains("eventfd")
    );
}

#[test]
fn fewer_looks_where_ranks_share_cores() {
    assert!(Waiter::new(3, 2).pauses() <= 20);
    assert_eq!(Waiter::new(2, 2).pauses(), 100);
}

#[test]
fn a_waiter_hands_its_core_over_before_it_sleeps_and_gives_up_in_the_end() {
    let waiter = Waiter::new(1, 1);
    let mut looks = 0;
    let ready = waiter.look(|| {
        looks += 1;
        false
    });
    assert!(!ready.ready && looks > waiter.pauses(), "{looks}");
    let mut left = waiter.pauses() + 1;
    let ready = waiter.look(|| {
        left -= 1;
        left == 0
    });
    assert!(ready.ready, "the first turn came to what it waits for");
    let mut looks = 0;
    let ready = Waiter::with_pauses(3).look(|| {
        looks += 1;
        false
    });
    assert!(!ready.ready && !ready.crowded);
    assert_eq!(looks, 3, "no turns where only pauses were asked for");
}

#[test]
fn a_waiter_that_gets_its_core_back_late_says_so_with_what_it_saw() {
    let waiter = Waiter::new(1, 1);
    for there in [false, true] {
        let mut looks = 0;
        let looked = waiter.look(|| {
            looks += 1;
            if looks == waiter.pauses() + 1 {
                std::thread::sleep(Duration::from_millis(3));
            }
            there && looks > waiter.pauses() + 1
        });
        // On a busy machine the first turn may be the late one already.
        let saw = there && looks > waiter.pauses() + 1;
        assert!(looked.crowded && looked.ready == saw, "{looked:?}");
        assert!(looks <= waiter.pauses() + 2, "it goes on for {looks} looks");
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "would go from 5 to 5")]
fn a_counter_that_does_not_grow_is_a_panic() {
    let board = Board::new(segment(), 0, 3);
    board.store(2, 5);
    assert_eq!((board.load(1), board.load(2)), (0, 5));
    board.store(2, 5);
}

//! Segments across processes. Child processes are this test binary again, told what to do by an environment variable.

use hfr_transport::shm::{
    Backing, FdServer, HUGE, Segment, fetch_fds, random_token, unique_address,
};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "HFR_TEST_SHM_ROLE";
const BOTH: [Backing; 2] = [Backing::Memfd, Backing::DevShm];

fn child(role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_entry", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The next line of the child that holds `word`, from behind it.
fn line_of(child: &mut Child, word: &str) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once(word)?.1.to_string()))
        .expect("the child says it")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn passable(segment: &Segment) -> OwnedFd {
    segment.fd().unwrap().try_clone_to_owned().unwrap()
}

#[expect(
    clippy::mut_from_ref,
    reason = "a segment is memory that others write too; the tests take turns"
)]
fn bytes(segment: &Segment, offset: usize, len: usize) -> &mut [u8] {
    // SAFETY: `at` checks the bounds; the tests hand the range from one side to the other and never use it at once.
    unsafe { std::slice::from_raw_parts_mut(segment.at(offset, len), len) }
}

/// Not a test of its own: what a child process runs.
#[test]
fn child_entry() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    match words[0] {
        "attach" => {
            let token = std::array::from_fn(|i| {
                u8::from_str_radix(&words[2][2 * i..2 * i + 2], 16).unwrap()
            });
            let fds = fetch_fds(words[1], &token, soon()).unwrap();
            let segment = Segment::attach(fds.into_iter().next().unwrap()).unwrap();
            for byte in bytes(&segment, 4000, 200) {
                *byte = byte.wrapping_mul(3).wrapping_add(1);
            }
            println!("length={}", segment.len());
        }
        "hold" => {
            let backing = if words[1] == "memfd" {
                Backing::Memfd
            } else {
                Backing::DevShm
            };
            let segment = Segment::create_in(words[2], 1 << 20, backing).unwrap();
            segment.reserve(0, 1 << 20).unwrap();
            bytes(&segment, 0, 9).copy_from_slice(b"something");
            println!("holding=yes");
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn another_process_sees_and_changes_the_bytes() {
    for backing in BOTH {
        let segment = Segment::create_in("hfr-attach", 64 << 30, backing).unwrap();
        segment.reserve(0, 8192).unwrap();
        for (i, byte) in bytes(&segment, 4000, 200).iter_mut().enumerate() {
            *byte = i as u8;
        }
        let token = random_token().unwrap();
        let address = unique_address("attach").unwrap();
        let _server = FdServer::start(&address, token, vec![passable(&segment)]).unwrap();
        let hex: String = token.iter().map(|b| format!("{b:02x}")).collect();
        let mut child = child(&format!("attach {address} {hex}"));
        assert_eq!(line_of(&mut child, "length="), (64_u64 << 30).to_string());
        assert!(child.wait().unwrap().success());
        for (i, byte) in bytes(&segment, 4000, 200).iter().enumerate() {
            assert_eq!(
                *byte,
                (i as u8).wrapping_mul(3).wrapping_add(1),
                "byte {i} with {backing:?}"
            );
        }
    }
}

#[test]
fn attach_maps_the_same_memory_and_outlives_the_creator() {
    let first = Segment::create("hfr-twice", 12345).unwrap();
    assert_eq!(first.backing(), Some(Backing::Memfd));
    let second = Segment::attach(passable(&first)).unwrap();
    assert_eq!(
        (second.len(), second.backing()),
        (12345, Some(Backing::Memfd))
    );
    bytes(&first, 12000, 345).fill(7);
    drop(first);
    assert_eq!(bytes(&second, 12000, 345), [7; 345]);
}

#[test]
fn what_is_no_segment_is_refused() {
    let pipe = std::io::pipe().unwrap();
    assert!(
        Segment::attach(pipe.0.into())
            .unwrap_err()
            .to_string()
            .contains("no segment")
    );
    assert!(Segment::create("hfr-empty", 0).is_err());
    assert!(Segment::heap(10).fd().is_none());
}

#[test]
fn a_memfd_cannot_be_shrunk_by_a_peer() {
    let segment = Segment::create("hfr-sealed", 1 << 16).unwrap();
    let file = std::fs::File::from(passable(&segment));
    assert!(file.set_len(100).is_err());
    assert!(file.set_len(1 << 17).is_err());
}

#[test]
fn more_than_there_is_is_an_error_and_no_kill() {
    for backing in BOTH {
        let segment = Segment::create_in("hfr-huge", 1 << 45, backing).unwrap();
        let error = segment.reserve(4096, 1 << 44).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("needed {} bytes, available ", 1_u64 << 44)),
            "{text}"
        );
        if backing == Backing::DevShm {
            assert!(
                error.remedy.contains("--shm-size=") && error.remedy.contains("memfd_create"),
                "{text}"
            );
        }
        // The segment is as good as before.
        segment.reserve(4096, 4096).unwrap();
        bytes(&segment, 4096, 4096).fill(3);
    }
}

#[test]
fn reserve_takes_memory_release_gives_it_back() {
    use std::os::unix::fs::MetadataExt;
    for backing in BOTH {
        let segment = Segment::create_in("hfr-pages", 1 << 30, backing).unwrap();
        let file = std::fs::File::from(passable(&segment));
        let taken = || file.metadata().unwrap().blocks() * 512;
        assert_eq!(taken(), 0);
        // Several steps, the last one short.
        let want = (130 << 20) + 4096;
        segment.reserve(1 << 20, want).unwrap();
        assert_eq!(taken(), want as u64);
        bytes(&segment, 1 << 20, want)[want - 5..].fill(9);
        segment.release((1 << 20) + 4096, want - 4096).unwrap();
        assert_eq!(taken(), 4096);
        assert_eq!(bytes(&segment, (1 << 20) + want - 5, 5), [0; 5]);
    }
    let heap = Segment::heap(100);
    heap.reserve(0, 100).unwrap();
    bytes(&heap, 0, 100).fill(1);
    heap.release(10, 20).unwrap();
    assert_eq!(
        bytes(&heap, 0, 100)
            .iter()
            .map(|b| usize::from(*b))
            .sum::<usize>(),
        80
    );
}

/// Bytes of this process that lie in huge pages, of the mapping around `at`.
fn huge_at(at: *const u8) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((from, to)) = first.split_once('-') {
            let edge = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
            inside = (edge(from)..edge(to)).contains(&(at as usize));
        } else if inside && first == "ShmemPmdMapped:" {
            let kib = line.split_whitespace().nth(1).unwrap();
            return kib.parse::<usize>().unwrap() << 10;
        }
    }
    panic!("no mapping at {at:?} in {smaps}");
}

/// Whether the system gives a huge page to shared memory that asks for it: it may be too old, or have none to give.
fn huge_pages_can_be_had() -> bool {
    const COLLAPSE: i32 = 25;
    let (room, access) = (3 * HUGE, libc::PROT_READ | libc::PROT_WRITE);
    let (anywhere, here) = (
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
    );
    // SAFETY: memory of our own, mapped and given back here.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, anywhere, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        let pages = at.byte_add(at.align_offset(HUGE));
        assert_eq!(libc::mmap(pages, 2 * HUGE, access, here, -1, 0), pages);
        for page in [pages, pages.byte_add(HUGE)] {
            page.cast::<u8>().write(1);
        }
        let done = libc::madvise(pages, 2 * HUGE, COLLAPSE);
        libc::munmap(at, room);
        done == 0
    }
}

#[test]
fn whole_huge_pages_are_reserved_as_such_and_keep_their_bytes() {
    use std::os::unix::fs::MetadataExt;
    for backing in BOTH {
        let segment = Segment::create_in("hfr-large", 1 << 30, backing).unwrap();
        assert!(segment.at(0, 1).cast_const().addr().is_multiple_of(HUGE));
        // What was there before is there afterwards, at both ends and between.
        let (from, to) = (3 * HUGE - 8192, 5 * HUGE + 12288);
        segment.reserve(3 * HUGE + 4096, 8192).unwrap();
        for (i, byte) in bytes(&segment, 3 * HUGE + 4096, 8192)
            .iter_mut()
            .enumerate()
        {
            *byte = (i % 251) as u8 + 1;
        }
        segment.reserve(from, to - from).unwrap();
        let taken = std::fs::File::from(passable(&segment))
            .metadata()
            .unwrap()
            .blocks()
            * 512;
        assert_eq!(taken as usize, to - from);
        let all = bytes(&segment, from, to - from);
        for (at, byte) in (from..).zip(all.iter()) {
            let kept = (3 * HUGE + 4096..3 * HUGE + 12288).contains(&at);
            let should = if kept {
                ((at - 3 * HUGE - 4096) % 251) as u8 + 1
            } else {
                0
            };
            assert_eq!(*byte, should, "byte {at} with {backing:?}");
        }
        all.fill(5);
        if huge_pages_can_be_had() {
            let huge = huge_at(segment.at(0, 1));
            assert_eq!(huge, 2 * HUGE, "with {backing:?}");
            // Whoever else maps the segment has them, too.
            let second = Segment::attach(passable(&segment)).unwrap();
            assert!(bytes(&second, from, to - from).iter().all(|b| *b == 5));
            assert_eq!(huge_at(second.at(0, 1)), 2 * HUGE, "with {backing:?}");
        }
        segment.release(from, to - from).unwrap();
        assert_eq!(huge_at(segment.at(0, 1)), 0);
        let taken = std::fs::File::from(passable(&segment))
            .metadata()
            .unwrap()
            .blocks();
        assert_eq!(taken, 0);
    }
}

#[test]
#[should_panic(expected = "do not lie inside a segment")]
fn a_range_outside_is_a_panic() {
    let _ = Segment::create("hfr-outside", 4096)
        .unwrap()
        .reserve(4000, 97);
}

#[test]
fn after_sigkill_nothing_is_left() {
    for backing in ["memfd", "devshm"] {
        let hint = format!("hfr-kill-{backing}-{}", std::process::id());
        let left = || {
            let shm = std::fs::read_dir("/dev/shm").unwrap();
            shm.filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains(&hint)
            })
            .count()
        };
        let mut child = child(&format!("hold {backing} {hint}"));
        assert_eq!(line_of(&mut child, "holding="), "yes");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let marks = if backing == "memfd" {
            format!("/memfd:{hint}")
        } else {
            "/dev/shm/".into()
        };
        assert!(maps.contains(&marks), "the child holds a segment: {maps}");
        assert_eq!(left(), 0, "a name in /dev/shm while the child runs");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(left(), 0, "a name in /dev/shm after SIGKILL");
    }
}

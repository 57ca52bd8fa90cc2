//! The TCP wire between two network namespaces: two processes that share nothing but a virtual cable, as two machines would.
//! Needs root and `ip`; without them the test says so and passes. Invariant: the namespaces are gone afterwards, whatever fails.

use hfr_transport::shm::Segment;
use hfr_transport::tcp::{Congestion, Tcp};
use hfr_transport::{Event, Notice, PeerAddress, Put, Transport};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: [u8; 32] = *b"a job's token, 32 bytes of them.";
/// Tells a process of this binary to be a rank: `rank ip folder`.
const ROLE: &str = "HFR_TEST_NETNS_ROLE";
const PATIENCE: Duration = Duration::from_secs(60);
const PUTS: usize = 100;
const EACH: usize = 300_001;
/// The notice after which a rank may hang up.
const BYE: Notice = Notice(u32::MAX);

/// Two namespaces, the processes in them and the folder they meet in; none of it outlives the test.
struct Lab {
    names: [String; 2],
    ranks: Vec<Child>,
    folder: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            // One that has ended already is what we want.
            let _ = rank.kill();
            let _ = rank.wait();
        }
        for name in &self.names {
            if let Err(error) = ip(&["netns", "del", name]) {
                eprintln!("namespace {name} is left over: {error}");
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|e| format!("ip: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

#[test]
fn two_processes_in_two_namespaces() {
    if std::env::var(ROLE).is_ok() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: network namespaces need root");
    }
    let names = ["a", "b"].map(|end| format!("hfr{}{end}", std::process::id()));
    if let Err(why) = ip(&["netns", "add", &names[0]]) {
        return eprintln!("skipped: no network namespaces here: {why}");
    }
    let folder = std::env::temp_dir().join(&names[0]);
    let mut lab = Lab {
        names: names.clone(),
        ranks: Vec::new(),
        folder: folder.clone(),
    };
    let [a, b] = &names;
    std::fs::create_dir(&folder).unwrap();
    ip(&["netns", "add", b]).unwrap();
    ip(&[
        "link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b,
    ])
    .unwrap();
    for (rank, name) in names.iter().enumerate() {
        ip(&[
            "-n",
            name,
            "addr",
            "add",
            &format!("{}/24", address(rank)),
            "dev",
            "cable",
        ])
        .unwrap();
        ip(&["-n", name, "link", "set", "cable", "up"]).unwrap();
    }
    for (rank, name) in names.iter().enumerate() {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", name])
            .arg(std::env::current_exe().unwrap());
        command.args(["--exact", "one_rank", "--nocapture"]);
        command.env(ROLE, format!("{rank} {}", folder.display()));
        lab.ranks.push(command.spawn().unwrap());
    }
    let end = Instant::now() + PATIENCE;
    let mut left: Vec<usize> = vec![0, 1];
    while !left.is_empty() {
        left.retain(|&rank| match lab.ranks[rank].try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "rank {rank} ended with {status}");
                false
            }
            None => true,
        });
        assert!(Instant::now() < end, "ranks {left:?} hang");
        std::thread::sleep(Duration::from_millis(10));
    }
    for rank in 0..2 {
        assert!(
            folder.join(format!("{rank}.done")).exists(),
            "rank {rank} has not run"
        );
    }
}

fn address(rank: usize) -> String {
    format!("10.83.7.{}", rank + 1)
}

/// One rank, when this process was started to be one.
#[test]
fn one_rank() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (rank, folder) = role.split_once(' ').unwrap();
    let (rank, folder) = (rank.parse::<usize>().unwrap(), Path::new(folder));
    let end = Instant::now() + PATIENCE / 2;
    let segment = Arc::new(Segment::heap(2 * PUTS * EACH));
    let listen = address(rank).parse().unwrap();
    let mut tcp = Tcp::bind(
        rank,
        segment.clone(),
        PUTS * EACH..2 * PUTS * EACH,
        listen,
        TOKEN,
        Congestion::Auto,
    )
    .unwrap();
    let peer = 1 - rank;
    let address = meet(rank, tcp.address(), folder, end);
    tcp.connect(
        &[PeerAddress {
            rank: peer,
            address,
        }],
        end,
    )
    .unwrap();
    for at in 0..PUTS * EACH {
        // SAFETY: inside the segment, before any put uses it.
        unsafe { segment.at(at, 1).write(byte(rank, at)) };
    }
    for n in 0..PUTS {
        let (from, to) = (n * EACH, (PUTS + n) * EACH);
        tcp.put(Put {
            peer,
            from,
            len: EACH,
            to,
            notice: Notice(n as u32),
            body: None,
            ticket: n as u64,
        })
        .unwrap();
    }
    let mut events = Vec::new();
    while events.len() < 2 * PUTS {
        tcp.poll(&mut events).unwrap();
        assert!(
            Instant::now() < end,
            "rank {rank} has seen {} of {} events",
            events.len(),
            2 * PUTS
        );
    }
    let arrived = events
        .iter()
        .filter(|event| matches!(event, Event::Arrived { .. }))
        .copied();
    assert!(arrived.eq((0..PUTS as u32).map(|n| Event::Arrived {
        from: peer,
        notice: Notice(n)
    })));
    for at in 0..PUTS * EACH {
        // SAFETY: inside the segment; everything has arrived.
        let got = unsafe { segment.at(PUTS * EACH + at, 1).read() };
        assert_eq!(got, byte(peer, at), "rank {rank}, byte {at}");
    }
    tcp.put(Put {
        peer,
        from: 0,
        len: 0,
        to: 0,
        notice: BYE,
        body: None,
        ticket: 0,
    })
    .unwrap();
    events.clear();
    // The other end may hang up as soon as it has our last notice, with its own before that.
    while !events.contains(&Event::Arrived {
        from: peer,
        notice: BYE,
    }) && tcp.poll(&mut events).is_ok()
    {
        assert!(Instant::now() < end, "rank {rank} has not heard the end");
    }
    assert!(
        events.contains(&Event::Arrived {
            from: peer,
            notice: BYE
        }),
        "rank {rank}: {events:?}"
    );
    std::fs::write(folder.join(format!("{rank}.done")), "").unwrap();
}

/// Says our address and hears the other's.
fn meet(rank: usize, address: Vec<u8>, folder: &Path, end: Instant) -> Vec<u8> {
    let draft = folder.join(format!("{rank}.draft"));
    std::fs::write(&draft, address).unwrap();
    std::fs::rename(draft, folder.join(rank.to_string())).unwrap();
    loop {
        if let Ok(address) = std::fs::read(folder.join((1 - rank).to_string())) {
            return address;
        }
        assert!(
            Instant::now() < end,
            "rank {rank} never saw the address of the other"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a rank sends at an offset; no period divides the length of a put.
fn byte(rank: usize, at: usize) -> u8 {
    ((at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ rank as u64) >> 51) as u8
}

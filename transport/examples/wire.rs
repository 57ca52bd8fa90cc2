//! What the verbs wire does between two processes, without any collective: bandwidth of puts and latency of a put there and back, in the terms of
//! perftest's `ib_write_bw` and `ib_write_lat`. It knows puts, no plan. Start it with rank 0 first: `wire 0 IP:PORT` and `wire 1 IP:PORT`, where
//! rank 0 listens; `HFR_IB_*` choose the device. Every byte that arrives is the sender's, which the last put of each size proves.

#[cfg(any(feature = "verbs", feature = "verbs-dlopen"))]
fn main() {
    measure::run();
}

#[cfg(not(any(feature = "verbs", feature = "verbs-dlopen")))]
fn main() {
    eprintln!("this build has no verbs wire; build with --features verbs");
    std::process::exit(1);
}

#[cfg(any(feature = "verbs", feature = "verbs-dlopen"))]
mod measure {
    use hfr_transport::net::Infiniband;
    use hfr_transport::shm::Segment;
    use hfr_transport::verbs::{Limits, Member, Verbs};
    use hfr_transport::{Event, Notice, PeerAddress, Put, Transport};
    use rustix::event::{PollFd, PollFlags};
    use std::io::{BufRead, BufReader, Write};
    use std::net::{IpAddr, TcpListener, TcpStream};
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const SEGMENT: usize = 16 << 20;
    /// Puts under way, as many as `ib_write_bw` has.
    const WINDOW: u32 = 128;
    const SIZES: [usize; 6] = [8, 256, 4096, 65_536, 262_144, 1 << 20];

    struct End {
        wire: Verbs,
        segment: Arc<Segment>,
        peer: usize,
        events: Vec<Event>,
        arrived: u32,
        begun: u32,
        sent: u32,
    }

    impl End {
        fn put(&mut self, len: usize) {
            let put = Put {
                peer: self.peer,
                from: 0,
                len,
                to: SEGMENT / 2,
                notice: Notice(len as u32),
                body: None,
                ticket: 0,
            };
            self.wire.put(put).expect("a put");
            self.begun += 1;
        }

        fn poll(&mut self) {
            self.wire.poll(&mut self.events).expect("a poll");
            for event in self.events.drain(..) {
                match event {
                    Event::Sent { .. } => self.sent += 1,
                    Event::Arrived { .. } => self.arrived += 1,
                }
            }
        }

        fn await_arrivals(&mut self, count: u32) {
            while self.arrived < count {
                self.poll();
            }
            self.arrived -= count;
        }

        /// As `await_arrivals`, asleep: a receiver that spins would take the processor from the kernel's own driver.
        fn sleep_until(&mut self, count: u32) {
            let mut raw = Vec::new();
            while self.arrived < count {
                raw.clear();
                self.wire.watch(&mut raw);
                self.poll();
                if self.arrived < count {
                    let fds = raw.iter().map(|&(fd, _)| {
                        // SAFETY: the wire keeps its descriptors open.
                        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                        PollFd::from_borrowed_fd(fd, PollFlags::IN)
                    });
                    let mut fds: Vec<_> = fds.collect();
                    rustix::event::poll(&mut fds, None).expect("a wait");
                    self.poll();
                }
            }
            self.arrived -= count;
        }

        /// Microseconds one way, the median of `rounds` round trips halved.
        fn latency(&mut self, len: usize, rounds: usize, first: bool) -> f64 {
            let mut times = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let began = Instant::now();
                if first {
                    self.put(len);
                }
                self.await_arrivals(1);
                if !first {
                    self.put(len);
                }
                times.push(began.elapsed().as_secs_f64() / 2.0 * 1e6);
            }
            times.sort_by(f64::total_cmp);
            times[rounds / 2]
        }

        /// Bytes per second from rank 1 to rank 0.
        fn bandwidth(&mut self, len: usize, count: u32, sends: bool) -> f64 {
            let began = Instant::now();
            if sends {
                let until = self.begun + count;
                while self.sent < until {
                    while self.begun < until && self.begun - self.sent < WINDOW {
                        self.put(len);
                    }
                    self.poll();
                }
            } else {
                self.sleep_until(count);
            }
            len as f64 * f64::from(count) / began.elapsed().as_secs_f64()
        }
    }

    /// Each tells the other a line.
    fn exchange(stream: &TcpStream, mine: &str) -> String {
        (&mut &*stream)
            .write_all(format!("{mine}\n").as_bytes())
            .expect("the other process");
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .expect("the other process");
        line.trim().to_owned()
    }

    fn meet(rank: usize, place: &str) -> (TcpStream, IpAddr) {
        let stream = if rank == 0 {
            TcpListener::bind(place)
                .expect("the place to meet")
                .accept()
                .expect("a caller")
                .0
        } else {
            let began = Instant::now();
            loop {
                match TcpStream::connect(place) {
                    Ok(stream) => break stream,
                    Err(e) => assert!(
                        began.elapsed() < Duration::from_secs(30),
                        "nobody at {place}: {e}"
                    ),
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let own = stream.local_addr().expect("a connected socket").ip();
        (stream, own)
    }

    pub fn run() {
        let arguments: Vec<String> = std::env::args().collect();
        let [_, rank, place] = &arguments[..] else {
            eprintln!("usage: wire 0|1 IP:PORT");
            std::process::exit(2);
        };
        let rank: usize = rank.parse().expect("a rank is 0 or 1");
        let settings = Infiniband::from_env(&|name| std::env::var(name).ok()).expect("settings");
        let (stream, own) = meet(rank, place);
        let segment = Arc::new(Segment::create("wire", SEGMENT).expect("shared memory"));
        let member = Member {
            rank,
            world: 2,
            local_rank: 0,
            ports: Vec::new(),
        };
        let began = Instant::now();
        let mut wire = Verbs::open(
            member,
            segment.clone(),
            0..SEGMENT,
            own,
            [7; 32],
            &settings,
            Limits::default(),
        )
        .expect("a wire");
        let address = String::from_utf8(wire.address()).expect("an address");
        let other = exchange(&stream, &address).into_bytes();
        let peer = PeerAddress {
            rank: 1 - rank,
            address: other,
        };
        wire.connect(&[peer], Instant::now() + Duration::from_secs(30))
            .expect("the peer");
        let mut end = End {
            wire,
            segment,
            peer: 1 - rank,
            events: Vec::new(),
            arrived: 0,
            begun: 0,
            sent: 0,
        };
        let up = began.elapsed().as_secs_f64() * 1e3;
        if rank == 0 {
            println!("connected in {up:.1} ms");
            println!("{:>9} {:>12} {:>12}", "bytes", "MiB/s", "us one way");
        }
        for len in SIZES {
            one_size(&mut end, rank, len);
        }
        let (registered, pairs) = end.wire.usage();
        if rank == 0 {
            println!("{registered} bytes registered, {pairs} queue pair");
        }
        exchange(&stream, "done");
    }

    fn one_size(end: &mut End, rank: usize, len: usize) {
        let count = ((16 << 20) / len).clamp(16, 300) as u32;
        // SAFETY: inside the segment; nothing is under way.
        unsafe { std::ptr::write_bytes(end.segment.at(0, len), rank as u8 + 3, len) };
        end.latency(len, 10, rank == 0);
        let rounds = if len > 65_536 { 10 } else { 100 };
        let latency = end.latency(len, rounds, rank == 0);
        let bandwidth = end.bandwidth(len, count, rank == 1);
        // Rank 0 has all bytes; its answer ends the size for both.
        if rank == 0 {
            end.put(8);
        } else {
            end.await_arrivals(1);
        }
        // SAFETY: inside the segment, and all puts into it have arrived.
        let bytes = unsafe { std::slice::from_raw_parts(end.segment.at(SEGMENT / 2, len), len) };
        assert!(
            bytes.iter().all(|&b| b == 4 - rank as u8),
            "wrong bytes of {len}"
        );
        if rank == 0 {
            println!(
                "{len:>9} {:>12.2} {latency:>12.2}",
                bandwidth / f64::from(1 << 20)
            );
        }
    }
}

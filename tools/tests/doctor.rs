//! `hfr doctor` as people and schedulers run it: as a program, alone and in jobs of processes over tcp, with faults injected by the library's own
//! means. It asks nothing of the machine's health: hosts are made-up folders, and what is measured is only compared with faults far larger
//! than any noise. Invariant: every wait is bounded, and no process or folder outlives its test.

use serde_json::Value;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const HFR: &str = env!("CARGO_BIN_EXE_hfr");
const LONG: Duration = Duration::from_secs(120);

/// A host of files.
struct Host(PathBuf);

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left over: {error}", self.0.display());
        }
    }
}

impl Host {
    /// Two NUMA nodes, one RDMA device.
    fn new(name: &str) -> Host {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = format!("hfr-doctor-program-{}-{number}", std::process::id());
        let host = Host(std::env::temp_dir().join(folder));
        let port = "sys/class/infiniband/mlx5_0/ports/1";
        for (path, text) in [
            ("proc/sys/kernel/hostname", name),
            ("proc/sys/kernel/random/boot_id", name),
            ("proc/sys/kernel/numa_balancing", "0"),
            (
                "proc/self/limits",
                "Max open files 65536 65536 files\nMax locked memory unlimited unlimited bytes",
            ),
            (
                "proc/self/mountinfo",
                "26 22 0:23 / /dev/shm rw - tmpfs tmpfs rw,size=8g",
            ),
            (
                "proc/meminfo",
                "MemTotal: 67108864 kB\nMemAvailable: 1048576 kB",
            ),
            ("sys/devices/system/node/node0/cpulist", "0-3"),
            ("sys/devices/system/node/node1/cpulist", "4-7"),
            (
                "sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal: 33554432 kB",
            ),
            (
                "sys/devices/system/node/node1/meminfo",
                "Node 1 MemTotal: 33554432 kB",
            ),
            (&format!("{port}/state"), "4: ACTIVE"),
            (&format!("{port}/phys_state"), "5: LinkUp"),
            (&format!("{port}/rate"), "200 Gb/sec (4X HDR)"),
        ] {
            host.write(path, text);
        }
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    fn down(self) -> Host {
        self.write("sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN");
        self
    }

    fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

/// What a command has said at its end.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.out, self.err))
    }
}

/// Ends a process that a failed test would leave.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // One that has ended already is what we want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `hfr` with words that hold no spaces of their own, and variables.
fn hfr(words: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = Command::new(HFR);
    // The tests themselves may run under a launcher.
    for (name, _) in std::env::vars() {
        if ["HFR_", "NCCL_", "SLURM_", "OMPI_", "PMI"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    let started = command
        .args(words)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = Guard(started.expect("hfr starts"));
    let hear = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            from.read_to_string(&mut text).expect("text");
            text
        })
    };
    let out = hear(Box::new(child.0.stdout.take().expect("piped")));
    let err = hear(Box::new(child.0.stderr.take().expect("piped")));
    let until = Instant::now() + LONG;
    let code = loop {
        if let Some(status) = child.0.try_wait().expect("our child") {
            break status.code();
        }
        assert!(
            Instant::now() < until,
            "hfr {words:?} has not ended after {LONG:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().expect("it has heard all");
    Said {
        code,
        out: text(out),
        err: text(err),
    }
}

/// Runs a job over tcp whose ranks run this shell line; `$DOCTOR` is the doctor.
fn job(nodes: &str, each: &str, line: &str, variables: &[(&str, &str)]) -> Said {
    let doctor = format!("{HFR} doctor --quick --json");
    let variables = [
        &[("DOCTOR", &*doctor), ("HFR_CONNECT_TIMEOUT", "30")],
        variables,
    ]
    .concat();
    let words = [
        "run",
        "--nodes",
        nodes,
        "-L",
        each,
        "--transport",
        "tcp",
        "--timeout",
        "20",
        "--",
        "sh",
        "-c",
        line,
    ];
    hfr(&words, &variables)
}

/// The checks of a name, wherever they are.
fn checks<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    let hosts = report["hosts"].as_array().expect("hosts").iter();
    let lists = hosts.map(|host| &host["checks"]).chain([&report["job"]]);
    let all = lists.flat_map(|list| list.as_array().expect("checks"));
    all.filter(|check| check["check"] == name).collect()
}

#[test]
fn exit_codes_are_for_schedulers() {
    let (well, odd, ill) = (Host::new("well"), Host::new("odd"), Host::new("ill").down());
    odd.write("proc/sys/kernel/numa_balancing", "1");
    for (host, lenient, strict, verdict) in [
        (&well, 0, 0, "healthy"),
        (&odd, 0, 1, "warnings"),
        (&ill, 2, 2, "failed"),
    ] {
        let path = host.path();
        let text = hfr(&["doctor", "--look", "--root", &path], &[]);
        assert_eq!(text.code, Some(lenient), "{}{}", text.out, text.err);
        assert!(text.out.contains(&format!("# {verdict}: ")), "{}", text.out);
        let json = hfr(
            &["doctor", "--look", "--strict", "--json", "--root", &path],
            &[],
        );
        let report = json.json();
        assert_eq!(json.code, Some(strict), "{report}");
        assert_eq!(
            (&report["verdict"], &report["exit_code"]),
            (&verdict.into(), &strict.into())
        );
    }
    let text = hfr(&["doctor", "--look", "--root", &ill.path()], &[]).out;
    assert!(text.contains("\nFAIL port mlx5_0/1: DOWN"), "{text}");
    let nothing = hfr(&["doctor", "--root", "/no/such/folder"], &[]);
    assert_eq!(
        nothing.code,
        Some(2),
        "what keeps it from looking is no warning"
    );
    assert!(nothing.err.contains("/no/such/folder"), "{}", nothing.err);
}

#[test]
fn alone_it_tests_itself_with_ranks_on_this_host() {
    let host = Host::new("alone");
    let said = hfr(
        &["doctor", "--quick", "--json", "--root", &host.path()],
        &[],
    );
    let report = said.json();
    assert_eq!(said.code, Some(0), "{report}{}", said.err);
    assert!(
        report["ranks"].as_u64() >= Some(2) && report["nodes"] == 1,
        "{report}"
    );
    let test = checks(&report, "self-test");
    assert_eq!(
        (test.len(), &test[0]["outcome"]),
        (1, &"ok".into()),
        "{report}"
    );
    assert!(
        test[0]["figures"]["calls_count"].as_f64() > Some(30.0),
        "{report}"
    );
    let memory = checks(&report, "memory-bandwidth");
    assert!(
        memory[0]["figures"]["read_gb_s"].as_f64() > Some(0.01),
        "{report}"
    );
    assert_eq!(
        report["pairs"].as_array().map(Vec::len),
        Some(0),
        "one node has no pairs"
    );
}

#[test]
fn every_pair_is_measured_and_every_host_is_told() {
    let (a, b) = (Host::new("first"), Host::new("second"));
    b.write(
        "proc/meminfo",
        "MemTotal: 33554432 kB\nMemAvailable: 1048576 kB",
    );
    let line =
        "if [ $((RANK % 4)) -lt 2 ]; then root=$A; else root=$B; fi; exec $DOCTOR --root $root";
    let (a, b) = (a.path(), b.path());
    let said = job("3", "2", line, &[("A", &a), ("B", &b)]);
    let report = said.json();
    let places: Vec<String> = report["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .map(|host| format!("{} {}", host["name"], host["ranks"]))
        .collect();
    assert_eq!(
        places,
        ["\"first\" [0,1,4,5]", "\"second\" [2,3]"],
        "{report}"
    );
    let mut met: Vec<String> = Vec::new();
    for pair in report["pairs"].as_array().expect("pairs") {
        met.push(pair["ranks"].to_string());
        let figures = [&pair["latency_us"], &pair["gb_s"][0], &pair["gb_s"][1]];
        assert!(
            figures.iter().all(|figure| figure.as_f64() > Some(0.0)),
            "{pair}"
        );
    }
    met.sort();
    assert_eq!(met, ["[0,2]", "[0,4]", "[1,3]", "[1,5]", "[2,4]", "[3,5]"]);
    let differs = checks(&report, "hosts");
    let memory = differs.iter().find(|check| {
        check["finding"]
            .as_str()
            .is_some_and(|text| text.starts_with("memory: 32 GiB, other hosts have 64"))
    });
    assert_eq!(
        memory.map(|check| &check["subject"]),
        Some(&"second".into()),
        "{report}"
    );
    assert_eq!(checks(&report, "self-test")[0]["outcome"], "ok", "{report}");
}

#[test]
fn a_slow_rank_is_named_with_its_figures() {
    let host = Host::new("slow");
    // Every put of one rank is late: as behind a bad cable.
    let late: Vec<String> = (1..4000).map(|put| format!("delay=30ms@{put}")).collect();
    let line = "if [ $RANK = 1 ]; then export HFR_CHAOS=$LATE; fi; exec $DOCTOR --root $ROOT";
    let said = job(
        "3",
        "1",
        line,
        &[("LATE", &late.join(",")), ("ROOT", &host.path())],
    );
    let report = said.json();
    assert_eq!(
        (said.code, &report["verdict"]),
        (Some(2), &"failed".into()),
        "{report}"
    );
    let slow = checks(&report, "slow-rank");
    assert_eq!(slow[0]["subject"], "rank 1 (node 1 on slow)", "{report}");
    assert_eq!(slow[0]["outcome"], "fail");
    let latency = slow[0]["figures"]["latency_us"].as_f64().expect("a figure");
    assert!(
        (15_000.0..10_000_000.0).contains(&latency),
        "30 ms one way, nothing the other: {report}"
    );
    assert!(said.err.contains("exit code 2"), "{}", said.err);
}

#[test]
fn a_broken_host_of_a_job_fails_it_on_every_rank() {
    let (well, ill) = (Host::new("well"), Host::new("ill").down());
    let line = "if [ $RANK = 1 ]; then root=$ILL; else root=$WELL; fi; $DOCTOR --root $root; echo code $? >&2";
    let said = job(
        "2",
        "1",
        line,
        &[("WELL", &well.path()), ("ILL", &ill.path())],
    );
    let report = said.json();
    assert_eq!(said.err.matches("code 2").count(), 2, "{}", said.err);
    assert_eq!(
        checks(&report, "port")
            .iter()
            .map(|check| &check["outcome"])
            .collect::<Vec<_>>(),
        ["ok", "fail"],
        "{report}"
    );
    let missing = checks(&report, "hosts");
    assert!(
        missing
            .iter()
            .any(|check| check["subject"] == "ill" && check["outcome"] == "fail"),
        "a port fewer than others: {report}"
    );
}

#[test]
fn a_rank_that_dies_is_named_and_the_report_still_comes() {
    let host = Host::new("dies");
    let line = "if [ $RANK = 1 ]; then export HFR_CHAOS=kill@9; fi; exec $DOCTOR --root $ROOT";
    let said = job("2", "1", line, &[("ROOT", &host.path())]);
    let report = said.json();
    let failed = checks(&report, "job");
    assert_eq!(failed.len(), 1, "{report}");
    assert!(
        failed[0]["finding"]
            .as_str()
            .is_some_and(|text| text.contains("rank 1")),
        "{report}"
    );
    assert_eq!(
        (&report["exit_code"], &report["hosts"][0]["name"]),
        (&2.into(), &"dies".into())
    );
}

#[test]
fn a_job_that_does_not_come_about_is_a_finding() {
    let host = Host::new("lonely").down();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let rendezvous = format!("127.0.0.1:{port}");
    let mut variables = vec![
        ("HFR_WORLD_SIZE", "2"),
        ("HFR_COMM_ID", &*rendezvous),
        ("HFR_COOKIE", "x"),
        ("HFR_CONNECT_TIMEOUT", "1"),
    ];
    let path = host.path();
    let words = ["doctor", "--json", "--root", &path];
    variables.push(("HFR_RANK", "0"));
    let first = hfr(&words, &variables);
    let report = first.json();
    assert_eq!(first.code, Some(2), "{report}");
    assert!(
        checks(&report, "job")[0]["finding"]
            .as_str()
            .is_some_and(|text| text.contains("cannot join the job")),
        "{report}"
    );
    assert_eq!(
        checks(&report, "port")[0]["outcome"],
        "fail",
        "what is wrong here is said too: {report}"
    );
    variables.push(("HFR_RANK", "1"));
    let second = hfr(&words, &variables);
    assert_eq!(
        (second.code, &*second.out),
        (Some(2), ""),
        "only rank 0 reports"
    );
    assert!(
        second.err.contains("rank 1 on lonely: FAIL port mlx5_0/1"),
        "{}",
        second.err
    );
    assert!(
        Path::new(&path).is_dir(),
        "nothing is written or removed there"
    );
}

//! Environments as launchers really set them, and the ways in which they can be wrong.

use std::collections::HashMap;

use super::derive::first_host;
use super::hydra::proxy;
use super::{Error, Launch, node_identity};

fn launch(variables: &str) -> Result<Launch, Error> {
    let pair = |line: &str| {
        line.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let map: HashMap<String, String> = variables.split_whitespace().filter_map(pair).collect();
    Launch::from_env(&|name| map.get(name).cloned())
}

fn good(variables: &str) -> Launch {
    launch(variables).unwrap_or_else(|error| panic!("{variables}: {error}"))
}

fn error(variables: &str) -> String {
    launch(variables).expect_err(variables).to_string()
}

const TORCHRUN: &str = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 ROLE_RANK=5 \
    MASTER_ADDR=node7 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=none TORCHELASTIC_MAX_RESTARTS=0";
const OPEN_MPI_4: &str = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=3 \
    OMPI_COMM_WORLD_LOCAL_SIZE=4 OMPI_COMM_WORLD_NODE_RANK=3 OMPI_MCA_ess_base_jobid=2203975681 \
    PMIX_RANK=3 PMIX_NAMESPACE=2203975681 OMPI_UNIVERSE_SIZE=4";
const OPEN_MPI_5: &str = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0 \
    OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_RANK=0 PMIX_NAMESPACE=prterun-host-8121@1 PMIX_SERVER_URI41=x";
const SLURM: &str = "SLURM_JOB_ID=4711 SLURM_STEP_ID=2 SLURM_PROCID=6 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 \
    SLURM_LOCALID=2 SLURM_NODEID=1 SLURM_STEP_NODELIST=node[003-005,7],b1 SLURM_STEP_TASKS_PER_NODE=4,3,1 \
    SLURM_JOB_NODELIST=node[003-007]";
const HYDRA: &str = "PMI_RANK=1 PMI_SIZE=2 PMI_FD=9 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2";
const PALS: &str =
    "PALS_RANKID=9 PALS_SIZE=16 PALS_LOCAL_RANKID=1 PALS_LOCAL_SIZE=8 PALS_APID=ab-12";

#[test]
fn torchrun() {
    let launch = good(TORCHRUN);
    assert_eq!(
        (launch.rank, launch.world, launch.local),
        (5, 8, Some((1, 4)))
    );
    assert_eq!(launch.rendezvous.as_deref(), Some("node7:29505"));
    let line = launch.describe();
    let start =
        "rank 5 of 8 (local rank 1 of 4) from torchrun (RANK, WORLD_SIZE); rendezvous node7:29505";
    assert!(line.starts_with(start), "{line}");
    assert!(
        !format!("{launch:?}").contains("29500"),
        "the cookie is not shown"
    );
    let six = good("RANK=1 WORLD_SIZE=2 MASTER_ADDR=fd00::1 MASTER_PORT=1");
    assert_eq!(six.rendezvous.as_deref(), Some("[fd00::1]:6"));
    assert_eq!(six.local, None);
}

#[test]
fn open_mpi_on_one_host_meets_on_the_loopback() {
    let (four, five) = (good(OPEN_MPI_4), good(OPEN_MPI_5));
    assert_eq!((four.rank, four.world, four.local), (3, 4, Some((3, 4))));
    assert!(four.source.starts_with("Open MPI"), "{}", four.source);
    assert!(
        four.describe().contains("port from PMIX_NAMESPACE"),
        "{}",
        four.describe()
    );
    let older = good(&OPEN_MPI_4.replace("PMIX_NAMESPACE", "X"));
    assert!(
        older
            .describe()
            .contains("port from OMPI_MCA_ess_base_jobid")
    );
    for launch in [&four, &five] {
        let address = launch.rendezvous.as_deref().unwrap();
        let port: u16 = address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
        assert!((20_000..30_000).contains(&port));
    }
    assert_ne!(four.rendezvous, five.rendezvous);
    assert_ne!(four.cookie, five.cookie);
}

#[test]
fn mpi_without_an_address_says_what_to_set() {
    let hosts = OPEN_MPI_4
        .replace("LOCAL_SIZE=4", "LOCAL_SIZE=2")
        .replace("LOCAL_RANK=3", "LOCAL_RANK=1");
    for text in [error(&hosts), error(HYDRA), error(PALS)] {
        assert!(text.contains("set HFR_COMM_ID=host:port"), "{text}");
    }
    let launch = good(&format!("{hosts} HFR_COMM_ID=node1:7000"));
    assert_eq!(launch.rendezvous.as_deref(), Some("node1:7000"));
    assert!(launch.describe().contains("(HFR_COMM_ID)"));
    let hydra = good(&format!("{HYDRA} NCCL_COMM_ID=[::1]:7000"));
    assert_eq!((hydra.rank, hydra.world, hydra.local), (1, 2, Some((1, 2))));
    assert_eq!(hydra.rendezvous.as_deref(), Some("[::1]:7000"));
    let pals = good(&format!("{PALS} HFR_COMM_ID=x1000c0s0b0n0:7000"));
    assert_eq!((pals.rank, pals.world, pals.local), (9, 16, Some((1, 8))));
    let mv2 = "MV2_COMM_WORLD_RANK=2 MV2_COMM_WORLD_SIZE=3 MV2_COMM_WORLD_LOCAL_RANK=0 MV2_COMM_WORLD_LOCAL_SIZE=1";
    let mv2 = good(&format!("{mv2} HFR_COMM_ID=a:1"));
    assert_eq!((mv2.rank, mv2.world, mv2.local), (2, 3, Some((0, 1))));
    assert!(mv2.source.starts_with("MVAPICH2"));
}

#[test]
fn hydra_on_one_host_meets_by_its_proxy() {
    let with = |born: &str| format!("{HYDRA} hydra_pmi_proxy={born}");
    let (one, other) = (good(&with("77-100")), good(&with("77-101")));
    let address = one.rendezvous.clone().unwrap();
    assert!(address.starts_with("127.0.0.1:2"), "{address}");
    assert!(
        one.describe().contains("hydra's proxy"),
        "{}",
        one.describe()
    );
    assert_ne!(
        (one.rendezvous, one.cookie),
        (other.rendezvous, other.cookie)
    );
    // On several hosts each has a proxy of its own.
    let hosts = with("77-100")
        .replace("NRANKS=2", "NRANKS=1")
        .replace("RANKID=1", "RANKID=0");
    assert!(error(&hosts).contains("set HFR_COMM_ID=host:port"));
    let (here, there) = (
        format!("{hosts} HFR_COMM_ID=h:1"),
        with("78-9 MPI_LOCALNRANKS=1 MPI_LOCALRANKID=0 HFR_COMM_ID=h:1"),
    );
    assert_eq!(good(&here).cookie, good(&there).cookie);
}

#[test]
fn the_proxy_is_the_nearest_of_the_ancestors() {
    let line = |number: &str, command: &str, parent: &str| {
        format!(
            "{number} ({command}) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9{number} 1 1\n"
        )
    };
    let chain = |shell: &'static str| {
        move |process: &str| {
            Some(match process {
                "self" => line("50", "hfr", "40"),
                "40" => line("40", shell, "30"),
                "30" => line("30", "hydra_pmi_proxy", "20"),
                "20" => line("20", "hydra_pmi_proxy", "1"),
                _ => line("1", "init", "0"),
            })
        }
    };
    assert_eq!(proxy(&chain("sh")).as_deref(), Some("30 930"));
    assert_eq!(proxy(&chain("a ) S (b")).as_deref(), Some("30 930"));
    assert_eq!(proxy(&|_| Some(line("7", "sh", "7"))), None);
    assert_eq!(proxy(&|_| Some(line("1", "init", "0"))), None);
    assert_eq!(proxy(&|_| None), None);
}

#[test]
fn slurm_meets_on_the_first_host_of_the_step() {
    let launch = good(SLURM);
    assert_eq!(
        (launch.rank, launch.world, launch.local),
        (6, 8, Some((2, 3)))
    );
    let address = launch.rendezvous.clone().unwrap();
    assert!(address.starts_with("node003:2"), "{address}");
    let other_rank = good(
        &SLURM
            .replace("PROCID=6", "PROCID=0")
            .replace("LOCALID=2", "LOCALID=0"),
    );
    assert_eq!(
        (other_rank.rendezvous, other_rank.cookie),
        (Some(address.clone()), launch.cookie.clone())
    );
    let other_step = good(&SLURM.replace("STEP_ID=2", "STEP_ID=3"));
    assert_ne!(other_step.rendezvous, Some(address));
    assert_ne!(other_step.cookie, launch.cookie);
    // With PMIx as Slurm's MPI plug-in the size is still Slurm's to tell.
    assert!(
        good(&format!(
            "{SLURM} PMIX_RANK=6 PMIX_NAMESPACE=slurm.pmix.4711.2"
        ))
        .source
        .starts_with("Slurm")
    );
    let runs = good(&SLURM.replace("=4,3,1", "=4(x2)"));
    assert_eq!(runs.local, Some((2, 4)));
    assert!(error(&SLURM.replace("=4,3,1", "=4")).contains("SLURM_NODEID=1 has no entry"));
    assert!(error(&SLURM.replace("=4,3,1", "=4(x")).contains("SLURM_STEP_TASKS_PER_NODE='4(x'"));
    assert!(error(&SLURM.replace("node[003", "node[")).contains("SLURM_STEP_NODELIST='node["));
}

#[test]
fn a_batch_script_is_one_process() {
    let batch = "SLURM_JOB_ID=4711 SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NODELIST=n[1-2]";
    let launch = good(batch);
    assert_eq!(
        (launch.rank, launch.world, launch.local),
        (0, 1, Some((0, 1)))
    );
}

#[test]
fn nobody_said_anything() {
    let launch = good("PATH=/bin HOME=/root");
    assert_eq!(
        (launch.rank, launch.world, launch.rendezvous.as_deref()),
        (0, 1, None)
    );
    assert!(
        launch.describe().contains("so a single rank"),
        "{}",
        launch.describe()
    );
    assert_eq!(good("WORLD_SIZE=1").world, 1);
    assert!(error("WORLD_SIZE=4").contains("WORLD_SIZE is set, but RANK is not"));
    assert!(error("RANK=3").contains("RANK is set, but WORLD_SIZE is not"));
}

#[test]
fn earlier_sources_win() {
    let ours = "HFR_RANK=1 HFR_WORLD_SIZE=3 HFR_COMM_ID=h:1 HFR_COOKIE=s3cret";
    let rising = [HYDRA, SLURM, PALS];
    let all = format!("{ours} {TORCHRUN} {OPEN_MPI_4} {}", rising.join(" "));
    let launch = good(&all);
    assert_eq!((launch.rank, launch.world, launch.local), (1, 3, None));
    assert_eq!(launch.cookie, b"s3cret");
    assert!(
        !launch.describe().contains("s3cret"),
        "{}",
        launch.describe()
    );
    assert!(good(&all[ours.len()..]).source.starts_with("torchrun"));
    assert!(
        good(&format!("{OPEN_MPI_4} {SLURM} {HYDRA}"))
            .source
            .starts_with("Open MPI")
    );
    assert!(
        good(&format!(
            "{HYDRA} {SLURM} HFR_COMM_ID=h:1 NCCL_COMM_ID=wrong"
        ))
        .source
        .starts_with("PMI ")
    );
    assert!(good(&format!("{SLURM} {PALS}")).source.starts_with("Slurm"));
    assert!(
        good("PMIX_RANK=1 HFR_WORLD_SIZE=2 HFR_COMM_ID=h:1")
            .source
            .starts_with("PMIx")
    );
    // A launcher that leaves a variable empty has not set it.
    assert_eq!(good("HFR_RANK= RANK= WORLD_SIZE=").world, 1);
}

#[test]
fn contradictions_name_variable_and_value() {
    let cases = [
        ("HFR_RANK=3", "HFR_RANK is set, but HFR_WORLD_SIZE is not"),
        (
            "HFR_WORLD_SIZE=3",
            "HFR_WORLD_SIZE is set, but HFR_RANK is not",
        ),
        (
            "HFR_RANK=two HFR_WORLD_SIZE=3",
            "HFR_RANK='two' is not a number",
        ),
        (
            "HFR_RANK=0 HFR_WORLD_SIZE=-1",
            "HFR_WORLD_SIZE='-1' is not a number",
        ),
        (
            "HFR_RANK=0 HFR_WORLD_SIZE=0",
            "rank 0 does not exist in a world of 0 ranks",
        ),
        (
            "HFR_RANK=3 HFR_WORLD_SIZE=3",
            "rank 3 does not exist in a world of 3 ranks",
        ),
        ("HFR_RANK=0 HFR_WORLD_SIZE=2", "set HFR_COMM_ID=host:port"),
        ("HFR_COMM_ID=host", "HFR_COMM_ID='host' is not host:port"),
        ("HFR_COMM_ID=host:0", "HFR_COMM_ID='host:0'"),
        ("HFR_COMM_ID=host:70000", "HFR_COMM_ID='host:70000'"),
        ("HFR_COMM_ID=::1:7000", "IPv6 address stands in brackets"),
        ("NCCL_COMM_ID=:7", "NCCL_COMM_ID=':7'"),
        ("RANK=1 WORLD_SIZE=2 MASTER_PORT=1", "MASTER_ADDR is not"),
        ("RANK=1 WORLD_SIZE=2 MASTER_ADDR=h", "MASTER_PORT is not"),
        (
            "RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=65533",
            "MASTER_PORT=65533 leaves no port",
        ),
        (
            "RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=x",
            "MASTER_PORT='x' is not a number",
        ),
        (
            "RANK=1 WORLD_SIZE=2 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2",
            "local rank 2 does not exist among 2",
        ),
        (
            "RANK=1 WORLD_SIZE=2 LOCAL_RANK=2 LOCAL_WORLD_SIZE=3",
            "3 local ranks cannot be in a world of 2",
        ),
        ("OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE is not"),
        ("PMI_RANK=1", "PMI_SIZE is not"),
        ("PALS_RANKID=1", "PALS_SIZE is not"),
        ("PMIX_RANK=1", "set HFR_WORLD_SIZE"),
        ("SLURM_PROCID=1 SLURM_STEP_ID=0", "SLURM_NTASKS is not"),
        (
            "SLURM_PROCID=1 SLURM_STEP_ID=0 SLURM_NTASKS=2",
            "SLURM_STEP_NODELIST is not",
        ),
        (
            "SLURM_PROCID=1 SLURM_STEP_NODELIST=n SLURM_NTASKS=2",
            "SLURM_JOB_ID is not",
        ),
    ];
    for (variables, part) in cases {
        let text = error(variables);
        assert!(text.contains(part), "{variables}: {text}");
    }
}

#[test]
fn the_first_host_of_every_kind_of_list() {
    let cases = [
        ("node[003-005,7],b1", Some("node003")),
        ("b1,node[003-005]", Some("b1")),
        ("n7", Some("n7")),
        ("rack[1-2]n[01-04]-ib", Some("rack1n01-ib")),
        ("x[9,1-3]", Some("x9")),
        ("", None),
        (",a", None),
        ("n[", None),
        ("n[]", None),
        ("n[a-b]", None),
        ("n]", None),
    ];
    for (list, host) in cases {
        assert_eq!(first_host(list).as_deref(), host, "{list}");
    }
}

#[test]
fn a_node_is_the_host_unless_it_is_claimed() {
    let none = |_: &str| None;
    assert_eq!(node_identity(&none), node_identity(&none));
    let claim = |name: &'static str| {
        move |variable: &str| (variable == "HFR_NODE").then(|| name.to_owned())
    };
    assert_ne!(node_identity(&claim("a")), node_identity(&claim("b")));
    assert_ne!(node_identity(&claim("a")), node_identity(&none));
    assert_eq!(node_identity(&claim("")), node_identity(&none));
}

//! Links of the recorded node that are broken: PCIe, RDMA ports and interfaces. Invariant: each is found alone, or with what follows from it.

use super::*;
use crate::doctor::ethernet;

/// Where the parts of the recorded node lie.
const NIC_PORT: &str = "sys/devices/pci0000:20/0000:20:01.1";
const GPU: &str = "sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0";
const ETHERNET: &str = "sys/devices/pci0000:80/0000:80:01.1/0000:81:00.0/net";

#[test]
fn degraded_pcie_links_are_found() {
    let gpu = format!("{GPU}/current_link_speed");
    finds(
        &[(&gpu, "2.5 GT/s PCIe")],
        "pcie",
        Outcome::Warn,
        &["GPU 0000:01:00.0", "2.5 GT/s x16", "idle"],
    );
    let gpu = format!("{GPU}/current_link_width");
    finds(
        &[(&gpu, "4")],
        "pcie",
        Outcome::Fail,
        &["GPU 0000:01:00.0", "x4", "reseat"],
    );
    // The port's rate does not fit through such a link either, and both are said.
    for (file, text, carries, runs) in [
        (
            "current_link_width",
            "8",
            "carries 126",
            "16 GT/s x8, device and slot can do 16 GT/s x16",
        ),
        (
            "current_link_speed",
            "2.5 GT/s PCIe",
            "carries 32",
            "2.5 GT/s x16, device and slot can do 16 GT/s x16",
        ),
    ] {
        let ill = Tree::with(&[(&format!("{NIC}/{file}"), text)]).ill();
        let names: Vec<(&str, Outcome)> = ill
            .iter()
            .map(|check| (&*check.check, check.outcome))
            .collect();
        assert_eq!(
            names,
            [("port", Outcome::Warn), ("pcie", Outcome::Fail)],
            "{ill:?}"
        );
        assert!(
            ill[0].finding.contains(carries) && ill[1].finding.contains(runs),
            "{ill:?}"
        );
        assert_eq!(ill[1].subject, "NIC 0000:21:00.0 (mlx5_0)");
    }
}

#[test]
fn a_slot_is_not_the_cards_fault() {
    let slot = [
        (format!("{NIC_PORT}/max_link_width"), "8"),
        (format!("{NIC}/current_link_width"), "8"),
    ];
    let slot: Vec<(&str, &str)> = slot.iter().map(|(path, text)| (&**path, *text)).collect();
    let ill = Tree::with(&slot).ill();
    let said: Vec<(&str, Outcome)> = ill
        .iter()
        .map(|check| (&*check.check, check.outcome))
        .collect();
    assert_eq!(
        said,
        [("port", Outcome::Warn), ("pcie", Outcome::Warn)],
        "{ill:?}"
    );
    assert!(ill[1].finding.contains("all that its slot has"), "{ill:?}");
}

#[test]
fn errors_of_a_pcie_link_are_found() {
    let tree = Tree::new();
    tree.write(
        &format!("{GPU}/aer_dev_fatal"),
        "DLP 0\nTOTAL_ERR_FATAL 2\n",
    );
    tree.write(
        &format!("{NIC}/aer_dev_correctable"),
        "RxErr 30\nTOTAL_ERR_COR 30\n",
    );
    let ill = tree.ill();
    assert_eq!(ill.len(), 1, "{ill:?}");
    assert_eq!(
        (&*ill[0].check, ill[0].figures["uncorrected_count"]),
        ("pcie-errors", 2.0)
    );
}

#[test]
fn ports_that_are_down_or_slow_are_found() {
    let port = format!("{NIC}/infiniband/mlx5_0/ports/1");
    let (state, physical) = (format!("{port}/state"), format!("{port}/phys_state"));
    let rate = format!("{port}/rate");
    let down = [(&*state, "1: DOWN"), (&*physical, "2: Polling")];
    finds(
        &down,
        "port",
        Outcome::Fail,
        &["mlx5_0/1", "DOWN (physically Polling)", "cable"],
    );
    let down = [(&*state, "1: DOWN"), (&*physical, "3: Disabled")];
    finds(&down, "port", Outcome::Fail, &["switched off"]);
    finds(
        &[(&state, "2: INIT")],
        "port",
        Outcome::Fail,
        &["INIT", "subnet manager"],
    );
    finds(
        &[(&rate, "100 Gb/sec (4X EDR)")],
        "port",
        Outcome::Fail,
        &["100 Gbit/s", "200"],
    );
    finds(
        &[(&rate, "50 Gb/sec (1X HDR)")],
        "port",
        Outcome::Fail,
        &["one lane"],
    );
    let flaps = format!("{port}/counters/link_downed");
    finds(
        &[(&flaps, "17")],
        "port-errors",
        Outcome::Warn,
        &["mlx5_0/1", "link_downed 17"],
    );
}

#[test]
fn the_other_port_of_a_device_that_works_may_be_down() {
    let tree = Tree::new();
    let port = format!("{NIC}/infiniband/mlx5_0/ports/2");
    for (file, text) in [
        ("state", "1: DOWN"),
        ("phys_state", "3: Disabled"),
        ("rate", "10 Gb/sec (4X SDR)"),
    ] {
        tree.write(&format!("{port}/{file}"), text);
    }
    let ill = tree.ill();
    assert_eq!((ill.len(), ill[0].outcome), (1, Outcome::Warn), "{ill:?}");
    assert!(ill[0].finding.contains("mlx5_0/1 is up"), "{ill:?}");
}

#[test]
fn interfaces_without_a_link_are_found() {
    let file = |name: &str| format!("{ETHERNET}/eth0/{name}");
    finds(
        &[(&file("carrier"), "0")],
        "interface",
        Outcome::Fail,
        &["eth0", "no link", "cable"],
    );
    finds(
        &[(&file("duplex"), "half")],
        "interface",
        Outcome::Fail,
        &["half duplex"],
    );
    finds(
        &[(&file("carrier_changes"), "40")],
        "interface-errors",
        Outcome::Warn,
        &["40 changes"],
    );
    finds(
        &[(&file("statistics/rx_crc_errors"), "5000")],
        "interface-errors",
        Outcome::Warn,
        &["5000 damaged"],
    );

    let tree = Tree::with(&[(&format!("{ETHERNET}/eth1/flags"), "0x1003")]);
    let state = |selector| ethernet::checks(&tree.root(), selector)[1].clone();
    assert_eq!(state(None).outcome, Outcome::Warn, "eth0 has a link");
    assert_eq!(
        state(Some("=eth1")).outcome,
        Outcome::Fail,
        "the settings name it"
    );
    assert_eq!(
        state(Some("^eth0")).outcome,
        Outcome::Warn,
        "they name another"
    );
    tree.write(&format!("{ETHERNET}/eth1/carrier"), "1");
    tree.write(&format!("{ETHERNET}/eth1/speed"), "1000");
    let slow = state(None);
    assert_eq!(slow.outcome, Outcome::Warn);
    assert!(
        slow.finding
            .contains("1 Gbit/s, another of the same kind 10"),
        "{slow:?}"
    );
}

#[test]
fn an_interface_that_is_off_matters_only_if_it_is_named() {
    let tree = Tree::new();
    let states = |selector| {
        let all = ethernet::checks(&tree.root(), selector).into_iter();
        all.map(|check| check.outcome).collect::<Vec<_>>()
    };
    assert_eq!(states(None), [Outcome::Ok, Outcome::Ok]);
    assert_eq!(states(Some("eth1")), [Outcome::Ok, Outcome::Fail]);
}

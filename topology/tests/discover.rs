//! Discovery: every recorded machine is built as a folder like `/sys`, with devices beside it that are of no interest, and is found again as
//! it was; and systems that tell little are still found.

use hfr_topology::machine::{Cpus, Device, Kind, Link, Machine, Speaks};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        // Thousands of small files: in memory where that can be had.
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let at = folder.join(format!("hfr-sysfs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&at);
        fs::create_dir_all(&at).expect("a folder");
        Folder(at)
    }

    fn write(&self, path: impl AsRef<Path>, text: &str) {
        let at = self.0.join(path);
        fs::create_dir_all(at.parent().expect("below the folder")).expect("a folder");
        fs::write(at, format!("{text}\n")).expect("a file");
    }

    /// `at` points to `target`, both from the root, over `..` as in sysfs.
    fn link(&self, at: &str, target: &str) {
        let up = "../".repeat(at.matches('/').count());
        fs::create_dir_all(self.0.join(at).parent().expect("below the folder")).expect("a folder");
        symlink(format!("{up}{target}"), self.0.join(at)).expect("a link");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn all_cpus(machine: &Machine) -> Cpus {
    machine.sockets.iter().flat_map(|s| &s.cores).collect()
}

fn processors(folder: &Folder, machine: &Machine) {
    let system = "devices/system";
    folder.write(
        format!("{system}/cpu/online"),
        &all_cpus(machine).to_string(),
    );
    for socket in &machine.sockets {
        for core in &socket.cores {
            for cpu in core.iter() {
                let at = format!("{system}/cpu/cpu{cpu}");
                folder.write(
                    format!("{at}/topology/physical_package_id"),
                    &socket.number.to_string(),
                );
                folder.write(format!("{at}/topology/core_cpus_list"), &core.to_string());
                folder.write(format!("{at}/cache/index9/type"), "Instruction");
                folder.write(format!("{at}/cache/index9/level"), "1");
                folder.write(format!("{at}/cache/index9/size"), "64K");
                folder.write(
                    format!("{at}/cache/index9/shared_cpu_list"),
                    &core.to_string(),
                );
                for (index, cache) in machine.caches.iter().enumerate() {
                    let at = format!("{at}/cache/index{index}");
                    let shared = cache
                        .shared
                        .iter()
                        .find(|s| core.within(s))
                        .expect("a cache");
                    folder.write(
                        format!("{at}/type"),
                        if index == 0 { "Data" } else { "Unified" },
                    );
                    folder.write(format!("{at}/level"), &cache.level.to_string());
                    folder.write(format!("{at}/size"), &format!("{}K", cache.bytes >> 10));
                    folder.write(format!("{at}/shared_cpu_list"), &shared.to_string());
                }
            }
        }
    }
    for numa in &machine.numa {
        let at = format!("{system}/node/node{}", numa.number);
        let distances: Vec<String> = numa.distances.iter().map(u32::to_string).collect();
        folder.write(format!("{at}/cpulist"), &numa.cpus.to_string());
        folder.write(format!("{at}/distance"), &distances.join(" "));
        let memory = format!(
            "Node {0} MemTotal:       {1} kB\nNode {0} MemFree:        5 kB",
            numa.number,
            numa.bytes >> 10
        );
        folder.write(format!("{at}/meminfo"), &memory);
    }
}

/// The folder of a device below `devices`.
fn home(machine: &Machine, device: usize) -> String {
    let d = &machine.devices[device];
    match d.parent {
        None => format!("devices/pci{}", d.address),
        Some(up) => format!("{}/{}", home(machine, up), d.address),
    }
}

fn speed(folder: &Folder, at: &str, which: &str, link: Option<Link>) {
    let speeds = [
        "",
        "2.5 GT/s PCIe",
        "5.0 GT/s PCIe",
        "8.0 GT/s PCIe",
        "16.0 GT/s PCIe",
        "32.0 GT/s PCIe",
    ];
    let (speed, lanes) = link.map_or(("Unknown", 255), |l| {
        (speeds[usize::from(l.generation)], l.lanes)
    });
    folder.write(format!("{at}/{which}_link_speed"), speed);
    folder.write(format!("{at}/{which}_link_width"), &lanes.to_string());
}

fn pci(
    folder: &Folder,
    at: &str,
    address: &str,
    class: &str,
    model: (u16, u16),
    numa: Option<usize>,
) {
    folder.write(format!("{at}/class"), class);
    folder.write(format!("{at}/vendor"), &format!("0x{:04x}", model.0));
    folder.write(format!("{at}/device"), &format!("0x{:04x}", model.1));
    folder.write(
        format!("{at}/numa_node"),
        &numa.map_or("-1".to_owned(), |n| n.to_string()),
    );
    folder.link(&format!("bus/pci/devices/{address}"), at);
}

fn device(folder: &Folder, machine: &Machine, index: usize) {
    let Device {
        address,
        kind,
        model,
        numa,
        link,
        most,
        ..
    } = machine.devices[index];
    let class = match kind {
        Kind::Host => return,
        Kind::Bridge => "0x060400",
        Kind::Gpu => ["0x030200", "0x030000"][index % 2],
        Kind::Nic
            if machine
                .ports
                .iter()
                .any(|p| p.device == Some(index) && p.speaks == Speaks::InfiniBand) =>
        {
            "0x020700"
        }
        Kind::Nic => "0x020000",
    };
    let at = home(machine, index);
    pci(
        folder,
        &at,
        &address.to_string(),
        class,
        model.expect("a model"),
        numa,
    );
    speed(folder, &at, "current", link);
    speed(folder, &at, "max", most);
}

fn port(folder: &Folder, machine: &Machine, index: usize) {
    let port = &machine.ports[index];
    let home = home(machine, port.device.expect("a device"));
    if let Some((name, number)) = port.name.split_once(':') {
        let at = format!("{home}/infiniband/{name}");
        let native = port.speaks == Speaks::InfiniBand;
        folder.link(&format!("class/infiniband/{name}"), &at);
        let at = format!("{at}/ports/{number}");
        folder.write(
            format!("{at}/link_layer"),
            if native { "InfiniBand" } else { "Ethernet" },
        );
        folder.write(
            format!("{at}/state"),
            if port.up { "4: ACTIVE" } else { "1: DOWN" },
        );
        let gigabits = f64::from(port.megabits.expect("a speed")) / 1000.0;
        folder.write(format!("{at}/rate"), &format!("{gigabits} Gb/sec (4X HDR)"));
    } else {
        // Virtio devices have a folder between.
        let at = format!("{home}/virtio{index}/net/{}", port.name);
        folder.link(&format!("class/net/{}", port.name), &at);
        folder.write(
            format!("{at}/type"),
            if port.speaks == Speaks::Ethernet {
                "1"
            } else {
                "32"
            },
        );
        folder.write(
            format!("{at}/operstate"),
            if port.up { "up" } else { "down" },
        );
        folder.write(
            format!("{at}/speed"),
            &port.megabits.map_or("-1".to_owned(), |m| m.to_string()),
        );
    }
}

/// What is not to be found: a disk, a server's own screen and a virtual machine's, a sound function, a spare virtual function, the loopback and a bridge.
fn noise(folder: &Folder) {
    let host = "devices/pci0000:00";
    for (address, class, model) in [
        ("0000:00:1c.0", "0x010802", (0x144d, 0xa808)),
        ("0000:00:1d.0", "0x030000", (0x1a03, 0x2000)),
        ("0000:00:1d.2", "0x038000", (0x1af4, 0x1050)),
        ("0000:00:1d.1", "0x040300", (0x10de, 0x1aef)),
        ("0000:00:1e.0", "0x020000", (0x15b3, 0x101c)),
    ] {
        pci(
            folder,
            &format!("{host}/{address}"),
            address,
            class,
            model,
            Some(0),
        );
    }
    folder.write(format!("{host}/0000:00:1e.0/physfn/class"), "0x020000");
    for (name, kind) in [("lo", "772"), ("br0", "1")] {
        let at = format!("devices/virtual/net/{name}");
        folder.link(&format!("class/net/{name}"), &at);
        folder.write(format!("{at}/type"), kind);
        folder.write(format!("{at}/operstate"), "up");
    }
}

#[test]
fn recorded_machines_are_found_again() {
    for (name, text) in [
        ("fire-flyer", include_str!("machines/fire-flyer.txt")),
        ("dgx-like", include_str!("machines/dgx-like.txt")),
        ("single-socket", include_str!("machines/single-socket.txt")),
        ("vm", include_str!("machines/vm.txt")),
        ("two-cpus", include_str!("machines/two-cpus.txt")),
    ] {
        let machine: Machine = text.parse().expect(name);
        let folder = Folder::new(name);
        processors(&folder, &machine);
        for index in 0..machine.devices.len() {
            device(&folder, &machine, index);
        }
        for index in 0..machine.ports.len() {
            port(&folder, &machine, index);
        }
        noise(&folder);
        let found =
            Machine::discover(&folder.0, &machine.name, Some(&machine.allowed)).expect(name);
        assert_eq!(found.to_string(), machine.to_string(), "{name}");
        assert_eq!(found, machine, "{name}");
    }
}

#[test]
fn a_system_that_tells_next_to_nothing_is_one_node_of_cores() {
    let folder = Folder::new("bare");
    let error = Machine::discover(&folder.0, "bare", None).expect_err("no sysfs");
    assert!(error.contains("it is no sysfs"), "{error}");
    folder.write("devices/system/cpu/online", "0-2,5");
    let machine = Machine::discover(&folder.0, " a  name ", None).expect("a machine");
    let expected = "hfreduce machine 1\nname a name\nallowed 0-2,5\nnuma 0 cpus 0-2,5 bytes 0\nsocket 0 cores 0 1 2 5\n";
    assert_eq!(machine.to_string(), expected);
}

#[test]
fn adapters_of_software_stand_where_their_interface_does() {
    let folder = Folder::new("rxe");
    folder.write("devices/system/cpu/online", "0");
    let nic = "devices/LNXSYSTM:00/VMBUS:01/0f5c-11/pci0002:00/0002:00:02.0";
    pci(
        &folder,
        nic,
        "0002:00:02.0",
        "0x020000",
        (0x15b3, 0x1016),
        None,
    );
    folder.link("class/net/eth1", &format!("{nic}/net/eth1"));
    folder.write(format!("{nic}/net/eth1/type"), "1");
    folder.write(format!("{nic}/net/eth1/operstate"), "up");
    for (name, parent) in [("rxe0", "eth1"), ("rxe1", "veth7")] {
        let at = format!("devices/virtual/infiniband/{name}");
        folder.link(&format!("class/infiniband/{name}"), &at);
        folder.write(format!("{at}/parent"), parent);
        folder.write(format!("{at}/ports/1/link_layer"), "Ethernet");
        folder.write(format!("{at}/ports/1/state"), "4: ACTIVE");
        folder.write(format!("{at}/ports/1/rate"), "2.5 Gb/sec (1X SDR)");
    }
    let machine = Machine::discover(&folder.0, "guest", None).expect("a machine");
    let lines: Vec<String> = machine
        .to_string()
        .lines()
        .skip(5)
        .map(str::to_owned)
        .collect();
    let expected = [
        "device 0002:00 host",
        "  device 0002:00:02.0 nic 15b3:1016",
        "port rxe1:1 roce megabits 2500 up",
        "port eth1 ethernet at 0002:00:02.0 up",
        "port rxe0:1 roce at 0002:00:02.0 megabits 2500 up",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_controller_with_a_domain_of_its_own_is_a_host_bridge() {
    let folder = Folder::new("domain");
    folder.write("devices/system/cpu/online", "0");
    let nic = "devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:01.0/10000:e1:00.0";
    pci(
        &folder,
        "devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:01.0",
        "10000:e0:01.0",
        "0x060400",
        (0x8086, 0x352a),
        None,
    );
    pci(
        &folder,
        nic,
        "10000:e1:00.0",
        "0x020000",
        (0x15b3, 0x1016),
        None,
    );
    let machine = Machine::discover(&folder.0, "vmd", None).expect("a machine");
    let addresses: Vec<String> = machine
        .devices
        .iter()
        .map(|d| d.address.to_string())
        .collect();
    assert_eq!(addresses, ["10000:e0", "10000:e0:01.0", "10000:e1:00.0"]);
}

#[test]
fn this_machine_is_found_and_survives() {
    let machine = Machine::discover(Path::new("/sys"), "here", None).expect("this machine");
    assert!(!machine.allowed.is_empty() && !machine.cores().is_empty());
    assert_eq!(machine.to_string().parse(), Ok(machine));
}

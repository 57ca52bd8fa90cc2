//! Finds out what machine this is, from a folder that looks like `/sys`.
//!
//! Not through hwloc: its Rust binding is an alpha release that wants the C library and its headers where it is built, while a default
//! build of this library needs Rust alone; and what is asked for here is some twenty files whose form the kernel promises
//! (Documentation/ABI). What hwloc would add - other systems, processors without sysfs - nobody here uses.
//!
//! It reads and changes nothing. Invariant: what a system does not tell (a VM without links, a kernel without NUMA) is left open or
//! is what a single memory node would have; only a folder that is no `/sys` at all is an error.

mod cpu;
mod pci;
mod ports;

use crate::machine::{Cpus, Machine};
use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

impl Machine {
    /// The machine that `sysfs` (usually `/sys`) describes. `allowed` are the CPUs that the process may use; `None` for all.
    ///
    /// # Errors
    /// The folder has no CPUs; what it says does not fit together.
    pub fn discover(sysfs: &Path, name: &str, allowed: Option<&Cpus>) -> Result<Machine, String> {
        let online: Cpus = read(&sysfs.join("devices/system/cpu/online"))
            .ok_or_else(|| {
                format!(
                    "{} has no devices/system/cpu/online: it is no sysfs",
                    sysfs.display()
                )
            })?
            .parse()?;
        let (devices, index) = pci::devices(sysfs);
        let sockets = cpu::sockets(sysfs, &online);
        let machine = Machine {
            name: name.split_whitespace().collect::<Vec<_>>().join(" "),
            allowed: allowed.unwrap_or(&online).clone(),
            numa: cpu::numa(sysfs, &online),
            caches: cpu::caches(sysfs, &online, &sockets),
            sockets,
            ports: ports::ports(sysfs, &index),
            devices,
        };
        machine.check()?;
        Ok(machine)
    }
}

/// A file's text without the space around it.
fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn parsed<T: FromStr>(path: &Path) -> Option<T> {
    read(path)?.parse().ok()
}

/// The names in a folder, in order; none where it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Folders `prefix0`, `prefix1` and so on, in the order of their numbers.
fn numbered(folder: &Path, prefix: &str) -> Vec<(usize, PathBuf)> {
    let number = |name: String| {
        let n = name.strip_prefix(prefix)?.parse().ok()?;
        Some((n, folder.join(&name)))
    };
    let mut all: Vec<_> = names(folder).into_iter().filter_map(number).collect();
    all.sort();
    all
}

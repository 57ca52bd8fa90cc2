//! A machine as text that people read, compare and edit, and back. One thing per line; the tree of devices is indented by two spaces per
//! level; `#` begins a comment line. Invariant: reading what was written gives the same machine.
//!
//! ```text
//! hfreduce machine 1
//! name example
//! allowed 0-3
//! numa 0 cpus 0-3 bytes 17179869184 distances 10
//! socket 0 cores 0-1 2-3
//! cache 3 bytes 33554432 cpus 0-3
//! device 0000:00 host
//!   device 0000:00:01.1 bridge 1022:1483 numa 0 link gen4x16 of gen4x16
//!     device 0000:01:00.0 nic 15b3:101b numa 0 link gen4x16 of gen4x16
//! port mlx5_0:1 infiniband at 0000:01:00.0 megabits 200000 up
//! ```

use super::{Address, Cache, Device, Kind, Link, Machine, Numa, Port, Socket, Speaks, word};
use std::{fmt, str::FromStr};

/// The first line, with the version of the form.
const HEAD: &str = "hfreduce machine 1";

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}", self.domain, self.bus)?;
        match self.slot {
            Some((device, function)) => write!(f, ":{device:02x}.{function:x}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// As the kernel writes it; capital letters as CUDA writes it.
    fn from_str(text: &str) -> Result<Address, String> {
        let read = || {
            let hex = |t: &str, most: u32| {
                let plain = !t.is_empty() && t.chars().all(|c| c.is_ascii_hexdigit());
                let n = u32::from_str_radix(t, 16).ok().filter(|n| *n <= most)?;
                plain.then_some(n)
            };
            let mut parts = text.split(':');
            let domain = hex(parts.next()?, u32::MAX)?;
            let bus = hex(parts.next()?, 0xff)? as u8;
            let slot = match parts.next() {
                None => None,
                Some(slot) => {
                    let (device, function) = slot.split_once('.')?;
                    Some((hex(device, 0x1f)? as u8, hex(function, 7)? as u8))
                }
            };
            parts
                .next()
                .is_none()
                .then_some(Address { domain, bus, slot })
        };
        read().ok_or_else(|| format!("'{text}' is no PCI address such as 0000:41:00.0"))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}\nname {}\nallowed {}", self.name, self.allowed)?;
        for n in &self.numa {
            write!(f, "numa {} cpus {} bytes {}", n.number, n.cpus, n.bytes)?;
            if !n.distances.is_empty() {
                write!(f, " distances{}", list(&n.distances))?;
            }
            writeln!(f)?;
        }
        for s in &self.sockets {
            writeln!(f, "socket {} cores{}", s.number, list(&s.cores))?;
        }
        for c in &self.caches {
            let shared = list(&c.shared);
            writeln!(f, "cache {} bytes {} cpus{shared}", c.level, c.bytes)?;
        }
        let mut depth = vec![0; self.devices.len()];
        for (i, d) in self.devices.iter().enumerate() {
            depth[i] = d.parent.map_or(0, |up| depth[up] + 1);
            write!(f, "{:1$}", "", 2 * depth[i])?;
            writeln!(f, "device {} {}", d.address, About(d))?;
        }
        for p in &self.ports {
            write!(f, "port {} {}", p.name, p.speaks)?;
            if let Some(device) = p.device {
                write!(f, " at {}", self.devices[device].address)?;
            }
            if let Some(megabits) = p.megabits {
                write!(f, " megabits {megabits}")?;
            }
            writeln!(f, " {}", if p.up { "up" } else { "down" })?;
        }
        Ok(())
    }
}

/// All of a device but its address and its place.
struct About<'a>(&'a Device);

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.0;
        f.write_str(word(&Kind::ALL, d.kind))?;
        if let Some((vendor, model)) = d.model {
            write!(f, " {vendor:04x}:{model:04x}")?;
        }
        if let Some(numa) = d.numa {
            write!(f, " numa {numa}")?;
        }
        if let Some(link) = d.link {
            write!(f, " link {link}")?;
        }
        if let Some(most) = d.most {
            write!(f, " of {most}")?;
        }
        Ok(())
    }
}

fn list<T: fmt::Display>(all: &[T]) -> String {
    all.iter().map(|one| format!(" {one}")).collect()
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Machine, String> {
        let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
        let mut lines = lines.filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        if lines.next().is_none_or(|(_, line)| line.trim() != HEAD) {
            return Err(format!("the first line is not '{HEAD}'"));
        }
        let mut machine = Machine::default();
        let mut path = Vec::new();
        for (n, line) in lines {
            take(&mut machine, &mut path, line).map_err(|e| format!("line {n}: {e}"))?;
        }
        machine.check()?;
        Ok(machine)
    }
}

/// The words of a line that were not read yet.
struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let text = self.next(what)?;
        text.parse()
            .map_err(|_| format!("{what} is no number: '{text}'"))
    }

    /// Whether the next word is this one, which is then read.
    fn has(&mut self, word: &str) -> bool {
        self.0.next_if_eq(&word).is_some()
    }

    fn must(&mut self, word: &str) -> Result<(), String> {
        if self.has(word) {
            Ok(())
        } else {
            Err(format!("the word '{word}' is missing"))
        }
    }

    fn rest<T: FromStr>(&mut self, what: &str) -> Result<Vec<T>, String> {
        let read = |text: &str| text.parse().map_err(|_| format!("{what}: '{text}'"));
        self.0.by_ref().map(read).collect()
    }

    fn one_of<T: Copy>(&mut self, all: &[(T, &'static str)], what: &str) -> Result<T, String> {
        let text = self.next(what)?;
        let found = all.iter().find(|(_, w)| *w == text).map(|(v, _)| *v);
        found.ok_or_else(|| {
            let words: Vec<_> = all.iter().map(|(_, w)| *w).collect();
            format!("{what} '{text}' is none of {}", words.join(", "))
        })
    }
}

/// Takes one line in. `path` is where the tree of devices has got to.
fn take(machine: &mut Machine, path: &mut Vec<usize>, line: &str) -> Result<(), String> {
    let mut words = Words(line.split_whitespace().peekable());
    match words.next("what the line says")? {
        "name" => {
            let name: Vec<&str> = words.0.by_ref().collect();
            machine.name = name.join(" ");
        }
        "allowed" => machine.allowed = words.next("the list of CPUs")?.parse()?,
        "numa" => machine.numa.push(numa(&mut words)?),
        "socket" => {
            let number = words.number("the socket")?;
            words.must("cores")?;
            let cores = words.rest("a core's CPUs")?;
            machine.sockets.push(Socket { number, cores });
        }
        "cache" => {
            let level = words.number("the level")?;
            words.must("bytes")?;
            let bytes = words.number("the cache's size")?;
            words.must("cpus")?;
            let shared = words.rest("a cache's CPUs")?;
            machine.caches.push(Cache {
                level,
                bytes,
                shared,
            });
        }
        "device" => {
            let depth = (line.len() - line.trim_start().len()) / 2;
            if depth > path.len() {
                return Err(
                    "it is indented by more than one level below the line before".to_owned(),
                );
            }
            path.truncate(depth);
            let device = device(&mut words, path.last().copied())?;
            path.push(machine.devices.len());
            machine.devices.push(device);
        }
        "port" => {
            let port = port(&mut words, &machine.devices)?;
            machine.ports.push(port);
        }
        other => {
            return Err(format!(
                "'{other}' is none of name, allowed, numa, socket, cache, device, port"
            ));
        }
    }
    match words.0.next() {
        Some(extra) => Err(format!("'{extra}' is too much")),
        None => Ok(()),
    }
}

fn numa(words: &mut Words<'_>) -> Result<Numa, String> {
    let number = words.number("the memory node")?;
    words.must("cpus")?;
    let cpus = words.next("the list of CPUs")?.parse()?;
    words.must("bytes")?;
    let bytes = words.number("the memory's size")?;
    let distances = if words.has("distances") {
        words.rest("a distance")?
    } else {
        Vec::new()
    };
    Ok(Numa {
        number,
        cpus,
        bytes,
        distances,
    })
}

fn device(words: &mut Words<'_>, parent: Option<usize>) -> Result<Device, String> {
    let address = words.next("the address")?.parse()?;
    let kind = words.one_of(&Kind::ALL, "the kind")?;
    let model = match words.0.next_if(|w| w.contains(':')) {
        Some(text) => Some(model(text)?),
        None => None,
    };
    let numa = if words.has("numa") {
        Some(words.number("the memory node")?)
    } else {
        None
    };
    let link = if words.has("link") {
        Some(link(words.next("the link")?)?)
    } else {
        None
    };
    let most = if words.has("of") {
        Some(link_of(words)?)
    } else {
        None
    };
    Ok(Device {
        address,
        parent,
        kind,
        model,
        numa,
        link,
        most,
    })
}

fn link_of(words: &mut Words<'_>) -> Result<Link, String> {
    link(words.next("the most that the link can do")?)
}

fn model(text: &str) -> Result<(u16, u16), String> {
    let hex = |t: &str| u16::from_str_radix(t, 16).ok().filter(|_| t.len() == 4);
    let pair = text
        .split_once(':')
        .and_then(|(v, m)| Some((hex(v)?, hex(m)?)));
    pair.ok_or_else(|| format!("'{text}' is no vendor and model such as 15b3:101b"))
}

fn link(text: &str) -> Result<Link, String> {
    let pair = text
        .strip_prefix("gen")
        .and_then(|rest| rest.split_once('x'));
    let read = pair.and_then(|(generation, lanes)| {
        Some(Link {
            generation: generation.parse().ok()?,
            lanes: lanes.parse().ok()?,
        })
    });
    read.ok_or_else(|| format!("'{text}' is no link such as gen4x16"))
}

fn port(words: &mut Words<'_>, devices: &[Device]) -> Result<Port, String> {
    let name = words.next("the name")?.to_owned();
    let speaks = words.one_of(&Speaks::ALL, "what the port speaks")?;
    let device = if words.has("at") {
        let address: Address = words.next("the address")?.parse()?;
        let found = devices.iter().position(|d| d.address == address);
        Some(found.ok_or_else(|| format!("no device {address} stands above"))?)
    } else {
        None
    };
    let megabits = if words.has("megabits") {
        Some(words.number("the speed")?)
    } else {
        None
    };
    let up = words.one_of(&[(true, "up"), (false, "down")], "the state")?;
    Ok(Port {
        name,
        speaks,
        device,
        megabits,
        up,
    })
}

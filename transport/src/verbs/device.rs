//! Devices and ports: which are there, which may be used, and the one that is. It knows names, states and address tables, no
//! peer. Invariants: a `Device` has an open context and a protection domain for as long as it lives; what was wrong with every
//! device that was passed over is in the error when none is left.

use super::Port;
use super::sys::{self, ibv_context, ibv_pd, ibv_port_state};
use crate::net::Infiniband;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// `IBV_LINK_LAYER_ETHERNET`; that of InfiniBand is 1, and 0 counts as InfiniBand.
const ETHERNET: u8 = 2;

/// What kind of address a row of the GID table is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub(super) enum GidKind {
    /// InfiniBand's own.
    Infiniband,
    /// RoCE without IP: reaches one Ethernet segment.
    RoceV1,
    /// RoCE in UDP: routed like any IP packet.
    RoceV2,
}

/// A row of a port's GID table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Gid {
    pub index: u8,
    pub kind: GidKind,
    pub raw: [u8; 16],
}

impl Gid {
    /// The IP address it stands for.
    pub fn ip(&self) -> IpAddr {
        ip_of(self.raw)
    }

    pub fn is_link_local(&self) -> bool {
        self.raw[0] == 0xFE && self.raw[1] & 0xC0 == 0x80
    }
}

pub(super) fn ip_of(gid: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(gid);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// An open device and the port of it that is used.
pub(super) struct Device {
    context: *mut ibv_context,
    pd: *mut ibv_pd,
    pub name: String,
    pub port: u8,
    /// Whether the link is Ethernet: addresses are GIDs then, otherwise LIDs.
    pub ethernet: bool,
    /// Whether it is no hardware but a driver of the kernel (rxe, siw).
    pub soft: bool,
    pub lid: u16,
    /// As `ibv_mtu` counts: 1 is 256 bytes, 5 is 4096.
    pub mtu: u32,
    /// Largest message.
    pub longest: usize,
    /// Most completions a queue holds.
    pub completions: usize,
    /// Most work requests a queue of a pair holds.
    pub requests: usize,
    pub pkey_index: u16,
    pub pkey: u16,
    pub numa: Option<usize>,
}

/// The list of all devices, freed when dropped.
struct List {
    first: *mut *mut sys::ibv_device,
    len: usize,
}

impl List {
    fn new() -> Result<List, String> {
        sys::load()?;
        let mut len = 0;
        // SAFETY: the library writes the length and gives an array of that many, or null.
        let first = unsafe { sys::ibv_get_device_list(&raw mut len) };
        if first.is_null() {
            let why = std::io::Error::last_os_error();
            return Err(format!(
                "RDMA devices cannot be listed: {why}; {}",
                no_modules()
            ));
        }
        Ok(List {
            first,
            len: len.max(0) as usize,
        })
    }

    fn iter(&self) -> impl Iterator<Item = *mut sys::ibv_device> {
        // SAFETY: the array has `len` entries and lives as long as the list.
        (0..self.len).map(|at| unsafe { *self.first.add(at) })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: from `ibv_get_device_list`, freed once; devices that were opened stay open.
        unsafe { sys::ibv_free_device_list(self.first) };
    }
}

fn no_modules() -> String {
    if Path::new("/dev/infiniband").exists() {
        "check `ibv_devices` and the permissions of /dev/infiniband/uverbs*".into()
    } else {
        "/dev/infiniband is missing: load the driver (modprobe ib_uverbs and mlx5_ib, or whatever the adapter needs), \
         and in a container pass it in (docker run --device=/dev/infiniband --cap-add=IPC_LOCK)"
            .into()
    }
}

fn name_of(device: *mut sys::ibv_device) -> String {
    // SAFETY: a device of a living list has a name, which is a constant text.
    let name = unsafe { CStr::from_ptr(sys::ibv_get_device_name(device)) };
    name.to_string_lossy().into_owned()
}

/// A port that may be used: its device, the device's name, and its number there.
type Usable = (*mut sys::ibv_device, String, u8);

/// The ports that are up and allowed, in the system's order.
fn usable(list: &List, settings: &Infiniband) -> Result<Vec<Usable>, String> {
    let mut faults = Vec::new();
    let mut usable = Vec::new();
    for device in list.iter() {
        let name = name_of(device);
        match open_ports(device, &name, settings, &mut faults) {
            Ok(ports) => usable.extend(ports.into_iter().map(|port| (device, name.clone(), port))),
            Err(why) => faults.push(format!("{name}: {why}")),
        }
    }
    match (usable.is_empty(), list.len) {
        (false, _) => Ok(usable),
        (true, 0) => Err(format!("this host has no RDMA device; {}", no_modules())),
        _ => Err(format!("no RDMA port can be used: {}", faults.join("; "))),
    }
}

/// The names of the ports that may be used, as `mlx5_0:1`.
pub(super) fn ports(settings: &Infiniband) -> Result<Vec<String>, String> {
    let list = List::new()?;
    let usable = usable(&list, settings)?;
    let name = |(_, name, port): Usable| format!("{name}:{port}");
    Ok(usable.into_iter().map(name).collect())
}

/// Opens `ports`, each with the number of its rail. Where none are named, one is by local rank: all usable ports in the system's order, rank
/// by rank, so that equal local ranks of all nodes are on the same rail.
pub(super) fn open(
    settings: &Infiniband,
    local_rank: usize,
    ports: &[Port],
) -> Result<Vec<(usize, Device)>, String> {
    let list = List::new()?;
    let usable = usable(&list, settings)?;
    let open =
        |(device, name, port): &Usable| Device::open(*device, name.as_str(), *port, settings);
    if ports.is_empty() {
        let rail = local_rank % usable.len();
        return Ok(vec![(rail, open(&usable[rail])?)]);
    }
    let open_named = |wanted: &Port| {
        let mut all = usable.iter();
        let known = all.find(|(_, name, port)| wanted.name == format!("{name}:{port}"));
        let found = known.ok_or_else(|| {
            let name = &wanted.name;
            format!("port {name} is not among those that are up and allowed: check `rdma link` and HFR_IB_HCA")
        })?;
        Ok((wanted.rail, open(found)?))
    };
    ports.iter().map(open_named).collect()
}

/// The ports of one device that are up and allowed.
fn open_ports(
    device: *mut sys::ibv_device,
    name: &str,
    settings: &Infiniband,
    faults: &mut Vec<String>,
) -> Result<Vec<u8>, String> {
    let context = context_of(device)?;
    let result = ports_of(context, name, settings, faults);
    // SAFETY: opened above, and nothing was made of it.
    unsafe { sys::ibv_close_device(context) };
    result
}

fn context_of(device: *mut sys::ibv_device) -> Result<*mut ibv_context, String> {
    // SAFETY: a device of a living list.
    let context = unsafe { sys::ibv_open_device(device) };
    if context.is_null() {
        let why = std::io::Error::last_os_error();
        return Err(format!("cannot be opened: {why}; {}", no_modules()));
    }
    Ok(context)
}

fn ports_of(
    context: *mut ibv_context,
    name: &str,
    settings: &Infiniband,
    faults: &mut Vec<String>,
) -> Result<Vec<u8>, String> {
    let attr = attributes(context)?;
    let mut ports = Vec::new();
    for port in 1..=attr.phys_port_cnt {
        if !settings.allows(name, port) {
            faults.push(format!(
                "{name}:{port} is not among HFR_IB_HCA={}",
                settings.hca.as_deref().unwrap_or_default()
            ));
            continue;
        }
        let of = sys::query_port(context, port)
            .map_err(|e| format!("port {port} cannot be asked: {e}"))?;
        match of.state {
            ibv_port_state::IBV_PORT_ACTIVE => ports.push(port),
            state => faults.push(format!(
                "{name}:{port} is {}; {}",
                state_name(state),
                remedy_of(state)
            )),
        }
    }
    Ok(ports)
}

fn attributes(context: *mut ibv_context) -> Result<sys::ibv_device_attr, String> {
    // SAFETY: plain data, for which all zeros is a value.
    let mut attr: sys::ibv_device_attr = unsafe { std::mem::zeroed() };
    // SAFETY: an open context; the attributes live here.
    match unsafe { sys::ibv_query_device(context, &raw mut attr) } {
        0 => Ok(attr),
        code => Err(format!("its limits cannot be asked: {}", os(code))),
    }
}

pub(super) fn os(code: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(code.abs())
}

fn state_name(state: ibv_port_state::Type) -> &'static str {
    match state {
        ibv_port_state::IBV_PORT_DOWN => "down",
        ibv_port_state::IBV_PORT_INIT => "not configured yet (INIT)",
        ibv_port_state::IBV_PORT_ARMED => "armed, but not active",
        ibv_port_state::IBV_PORT_ACTIVE => "active",
        _ => "in an unknown state",
    }
}

fn remedy_of(state: ibv_port_state::Type) -> &'static str {
    match state {
        ibv_port_state::IBV_PORT_INIT | ibv_port_state::IBV_PORT_ARMED => {
            "is a subnet manager running (opensm, or the switch's)?"
        }
        _ => "check the cable, `ip link` and `rdma link`",
    }
}

impl Device {
    fn open(
        device: *mut sys::ibv_device,
        name: &str,
        port: u8,
        settings: &Infiniband,
    ) -> Result<Device, String> {
        let context = context_of(device).map_err(|e| format!("{name}: {e}"))?;
        // From here on the device is closed by drop, whatever fails.
        let mut opened = Device {
            context,
            pd: std::ptr::null_mut(),
            name: name.to_owned(),
            port,
            ethernet: false,
            soft: false,
            lid: 0,
            mtu: 0,
            longest: 0,
            completions: 0,
            requests: 0,
            pkey_index: settings.pkey_index,
            pkey: 0,
            numa: None,
        };
        opened.learn().map_err(|e| format!("{name}:{port}: {e}"))?;
        Ok(opened)
    }

    fn learn(&mut self) -> Result<(), String> {
        let limits = attributes(self.context)?;
        let port = sys::query_port(self.context, self.port).map_err(|e| e.to_string())?;
        self.ethernet = port.link_layer == ETHERNET;
        self.lid = port.lid;
        self.mtu = port.active_mtu;
        self.longest = port.max_msg_sz as usize;
        self.completions = limits.max_cqe.max(1) as usize;
        self.requests = limits.max_qp_wr.max(1) as usize;
        let sysfs = Path::new("/sys/class/infiniband").join(&self.name);
        // A driver of the kernel alone has no device on any bus.
        self.soft = sysfs.exists() && !sysfs.join("device").exists();
        let numa = std::fs::read_to_string(sysfs.join("device/numa_node")).unwrap_or_default();
        self.numa = numa.trim().parse().ok();
        let mut pkey = 0;
        // SAFETY: an open context; the key is written into `pkey`.
        if unsafe {
            sys::ibv_query_pkey(
                self.context,
                self.port,
                i32::from(self.pkey_index),
                &raw mut pkey,
            )
        } != 0
        {
            return Err(format!(
                "its partition table has no row {}; set HFR_IB_PKEY to one it has",
                self.pkey_index
            ));
        }
        self.pkey = u16::from_be(pkey);
        if self.pkey == 0 {
            return Err(format!(
                "row {} of its partition table is empty; set HFR_IB_PKEY to another",
                self.pkey_index
            ));
        }
        // SAFETY: an open context.
        self.pd = unsafe { sys::ibv_alloc_pd(self.context) };
        if self.pd.is_null() {
            return Err(format!(
                "no protection domain: {}",
                std::io::Error::last_os_error()
            ));
        }
        Ok(())
    }

    /// Reads again what changes while the port is in use, for the links that come.
    pub fn again(&mut self) {
        if let Ok(port) = sys::query_port(self.context, self.port) {
            self.lid = port.lid;
            self.mtu = port.active_mtu;
        }
    }

    pub fn context(&self) -> *mut ibv_context {
        self.context
    }

    pub fn pd(&self) -> *mut ibv_pd {
        self.pd
    }

    /// The rows of the port's GID table as they are now, those of links that are gone left out.
    pub fn gids(&self) -> Vec<Gid> {
        let table = format!(
            "/sys/class/infiniband/{}/ports/{}/gid_attrs/types",
            self.name, self.port
        );
        let Ok(port) = sys::query_port(self.context, self.port) else {
            return Vec::new();
        };
        let rows = 0..port.gid_tbl_len.clamp(0, 255) as u8;
        rows.filter_map(|index| {
            // SAFETY: plain data, for which all zeros is a value.
            let mut gid: sys::ibv_gid = unsafe { std::mem::zeroed() };
            // SAFETY: an open context; the row is written into `gid`.
            let code = unsafe {
                sys::ibv_query_gid(self.context, self.port, i32::from(index), &raw mut gid)
            };
            // SAFETY: both views of the union are plain bytes.
            let raw = unsafe { gid.raw };
            if code != 0 || raw == [0; 16] {
                return None;
            }
            let kind = match std::fs::read_to_string(format!("{table}/{index}")) {
                Ok(text) if text.trim() == "RoCE v2" => GidKind::RoceV2,
                _ if self.ethernet => GidKind::RoceV1,
                _ => GidKind::Infiniband,
            };
            Some(Gid { index, kind, raw })
        })
        .collect()
    }

    /// What the port is doing now, for an error that has to be explained.
    pub fn state(&self) -> &'static str {
        sys::query_port(self.context, self.port).map_or("gone", |port| state_name(port.state))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.pd.is_null() {
            // SAFETY: whoever made something of the domain has dropped it: the wire drops its device last.
            unsafe { sys::ibv_dealloc_pd(self.pd) };
        }
        // SAFETY: opened in `open`, closed once.
        unsafe { sys::ibv_close_device(self.context) };
    }
}

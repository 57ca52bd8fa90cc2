//! A queue pair and how it is brought up: each state is a type, and only the last one sends. It knows attributes and work requests,
//! no put. Invariants: a pair goes through reset, init, ready to receive, ready to send in this order and no other; when the
//! device refuses a step, the error says which attribute cannot be right.

use super::device::{Device, Gid, ip_of, os};
use super::sys::{
    self, ibv_access_flags, ibv_cq, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_state,
    ibv_recv_wr, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode,
};
use std::marker::PhantomData;
use std::net::IpAddr;

/// Work requests one call posts.
pub(super) const BATCH: usize = 32;
/// Hops a routed packet may take.
const HOPS: u8 = 64;
/// Queue pair numbers and packet sequence numbers have 24 bits.
pub(super) const BITS_24: u32 = (1 << 24) - 1;

/// Knows its port and partition; takes receives.
pub(super) struct Init;
/// Knows its peer; hears it.
pub(super) struct Hearing;
/// Hears and sends.
pub(super) struct Ready;

/// A queue pair in state `S`.
pub(super) struct Pair<S> {
    qp: *mut ibv_qp,
    /// Longest message that is copied into the work request.
    pub inline: usize,
    state: PhantomData<S>,
}

/// How long to send, and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// 4.096 us times two to this power until a packet counts as lost.
    pub timeout: u8,
    /// How often a lost packet is sent again; with 7 soft devices never give up.
    pub retries: u8,
}

/// The way to a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub lid: u16,
    /// Ours and the peer's, where addresses are GIDs.
    pub gids: Option<(Gid, Gid)>,
    pub mtu: u32,
    pub service_level: u8,
    pub traffic_class: u8,
    /// The peer's queue pair, and its first packet.
    pub pair: u32,
    pub packet: u32,
}

/// The way to a peer as the device says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Bytes of a packet.
    pub mtu: u32,
    /// Service level, or priority.
    pub service_level: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Row of our GID table.
    pub gid_index: u8,
    /// The peer's address.
    pub to: IpAddr,
}

/// How many work requests the queues of a pair hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    pub sends: u32,
    pub receives: u32,
    pub inline: u32,
}

fn blank() -> ibv_qp_attr {
    // SAFETY: plain data, for which all zeros is a value.
    unsafe { std::mem::zeroed() }
}

impl<S> Pair<S> {
    /// The number peers know it by.
    pub fn number(&self) -> u32 {
        // SAFETY: alive until dropped.
        unsafe { (*self.qp).qp_num }
    }

    fn into<T>(self) -> Pair<T> {
        let next = Pair {
            qp: self.qp,
            inline: self.inline,
            state: PhantomData,
        };
        std::mem::forget(self);
        next
    }

    fn modify(&mut self, attr: &mut ibv_qp_attr, mask: ibv_qp_attr_mask) -> Result<(), i32> {
        // SAFETY: the pair is alive; the attributes live during the call.
        match unsafe { sys::ibv_modify_qp(self.qp, attr, mask.0 as i32) } {
            0 => Ok(()),
            code => Err(code.abs()),
        }
    }

    /// Posts `count` receives without bytes, all with the same `id`.
    pub fn receive(&mut self, mut count: usize, id: u64) -> Result<(), String> {
        while count > 0 {
            let now = count.min(BATCH);
            // SAFETY: plain data, for which all zeros is a value.
            let mut requests: [ibv_recv_wr; BATCH] = unsafe { std::mem::zeroed() };
            let base = requests.as_mut_ptr();
            for (at, request) in requests[..now].iter_mut().enumerate() {
                request.wr_id = id;
                if at + 1 < now {
                    // SAFETY: the next place of the same array.
                    request.next = unsafe { base.add(at + 1) };
                }
            }
            let mut bad = std::ptr::null_mut();
            // SAFETY: the pair is alive and at least initialised; the chain lies in the array, and the device copies it.
            let code = unsafe { sys::ibv_post_recv(self.qp, base, &raw mut bad) };
            if code != 0 {
                return Err(format!("{now} receives were refused: {}", os(code)));
            }
            count -= now;
        }
        Ok(())
    }
}

impl Pair<Init> {
    /// A new pair whose completions go to `cq`.
    pub fn new(device: &Device, cq: *mut ibv_cq, depth: Depth) -> Result<Pair<Init>, String> {
        // SAFETY: plain data, for which all zeros is a value.
        let mut wanted: sys::ibv_qp_init_attr = unsafe { std::mem::zeroed() };
        wanted.send_cq = cq;
        wanted.recv_cq = cq;
        wanted.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
        wanted.cap.max_send_wr = depth.sends;
        wanted.cap.max_recv_wr = depth.receives;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = depth.inline;
        // SAFETY: the protection domain and the queue are alive; the attributes live during the call.
        let qp = unsafe { sys::ibv_create_qp(device.pd(), &raw mut wanted) };
        if qp.is_null() {
            let why = std::io::Error::last_os_error();
            return Err(format!(
                "no queue pair with {depth:?}: {why}; the device allows {} requests per queue",
                device.requests
            ));
        }
        let mut pair = Pair::<Init> {
            qp,
            inline: (wanted.cap.max_inline_data as usize).min(depth.inline as usize),
            state: PhantomData,
        };
        let mut attr = blank();
        attr.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attr.pkey_index = device.pkey_index;
        attr.port_num = device.port;
        attr.qp_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
            | ibv_qp_attr_mask::IBV_QP_PORT
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
        pair.modify(&mut attr, mask).map_err(|code| {
            let (port, row) = (device.port, device.pkey_index);
            format!("the step to INIT was refused: {}; attributes: IBV_QP_PORT {port}, IBV_QP_PKEY_INDEX {row}, IBV_QP_ACCESS_FLAGS remote write", os(code))
        })?;
        Ok(pair)
    }

    /// Learns its peer.
    pub fn hear(mut self, device: &Device, path: &Path) -> Result<Pair<Hearing>, String> {
        let mut attr = blank();
        attr.qp_state = ibv_qp_state::IBV_QPS_RTR;
        attr.path_mtu = path.mtu;
        attr.dest_qp_num = path.pair;
        attr.rq_psn = path.packet;
        // Nobody reads from us and nobody uses atomics.
        attr.max_dest_rd_atomic = 0;
        // 0.01 ms: the shortest there is; receives never run out, so it is never waited for.
        attr.min_rnr_timer = 1;
        attr.ah_attr.port_num = device.port;
        attr.ah_attr.sl = path.service_level;
        attr.ah_attr.dlid = path.lid;
        if let Some((ours, theirs)) = path.gids {
            attr.ah_attr.is_global = 1;
            attr.ah_attr.grh.dgid.raw = theirs.raw;
            attr.ah_attr.grh.sgid_index = ours.index;
            attr.ah_attr.grh.hop_limit = HOPS;
            attr.ah_attr.grh.traffic_class = path.traffic_class;
        }
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_AV
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(&mut attr, mask).map_err(|code| {
            format!(
                "the step to RTR was refused: {}; {}",
                os(code),
                suspects(device, path)
            )
        })?;
        Ok(self.into())
    }
}

/// Which attribute of the step to RTR cannot be right.
fn suspects(device: &Device, path: &Path) -> String {
    let mut found = Vec::new();
    if path.pair > BITS_24 {
        found.push(format!(
            "IBV_QP_DEST_QPN: {} has more than 24 bits",
            path.pair
        ));
    }
    if path.packet > BITS_24 {
        found.push(format!(
            "IBV_QP_RQ_PSN: {} has more than 24 bits",
            path.packet
        ));
    }
    if path.mtu == 0 || path.mtu > device.mtu {
        let (wanted, has) = (128 << path.mtu, 128 << device.mtu);
        found.push(format!(
            "IBV_QP_PATH_MTU: {wanted} bytes, the port has {has}"
        ));
    }
    match path.gids {
        None if path.lid == 0 => {
            found.push("IBV_QP_AV: the peer's LID is 0 (is a subnet manager running?)".into())
        }
        None if device.ethernet => found.push("IBV_QP_AV: a RoCE port needs a GID".into()),
        None => {}
        Some((ours, theirs)) => match device.gids().iter().find(|gid| gid.index == ours.index) {
            None => found.push(format!(
                "IBV_QP_AV: row {} of the GID table is empty now",
                ours.index
            )),
            Some(now) if now.raw != ours.raw => found.push(format!(
                "IBV_QP_AV: row {} of the GID table has changed from {} to {}",
                ours.index,
                ours.ip(),
                now.ip()
            )),
            Some(_) => found.push(format!(
                "IBV_QP_AV: is there a route from {} to {}? (`ip route get`, `ip neigh`)",
                ours.ip(),
                theirs.ip()
            )),
        },
    }
    if path.service_level > 15 {
        found.push(format!("IBV_QP_AV: service level {}", path.service_level));
    }
    let port = device.state();
    if found.is_empty() {
        format!("no attribute of {path:?} is wrong by itself; the port is {port}")
    } else {
        format!("{}; the port is {port}", found.join("; "))
    }
}

impl Pair<Hearing> {
    /// Begins to send, with the packet number the peer was told.
    pub fn speak(mut self, packet: u32, patience: Patience) -> Result<Pair<Ready>, String> {
        let mut attr = blank();
        attr.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attr.sq_psn = packet;
        attr.timeout = patience.timeout;
        attr.retry_cnt = patience.retries;
        // For ever: by the credits of a link a receive is always there, so that a peer without one is only slow to be ready.
        attr.rnr_retry = 7;
        attr.max_rd_atomic = 0;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE
            | ibv_qp_attr_mask::IBV_QP_SQ_PSN
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(&mut attr, mask).map_err(|code| {
            format!("the step to RTS was refused: {}; attributes: IBV_QP_SQ_PSN {packet}, IBV_QP_TIMEOUT and IBV_QP_RETRY_CNT {patience:?}", os(code))
        })?;
        Ok(self.into())
    }
}

/// One work request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub id: u64,
    pub what: What,
    /// Address, length and local key of the source; without bytes it does not count.
    pub source: (u64, u32, u32),
    pub signalled: bool,
    pub inline: bool,
}

/// What a work request does.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// Bytes to the peer's address, under its key.
    Write { address: u64, rkey: u32 },
    /// The same, and the peer is told.
    Tell {
        address: u64,
        rkey: u32,
        notice: u32,
    },
    /// A number alone, which the peer can tell from a notice.
    Number(u32),
}

impl Pair<Ready> {
    /// Posts up to `BATCH` requests with one call.
    pub fn post(&mut self, requests: &[Request]) -> Result<(), String> {
        assert!(requests.len() <= BATCH, "a batch is posted at a time");
        if requests.is_empty() {
            return Ok(());
        }
        // SAFETY: plain data, for which all zeros is a value.
        let mut chain: [ibv_send_wr; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut sources: [ibv_sge; BATCH] = unsafe { std::mem::zeroed() };
        let (first, source) = (chain.as_mut_ptr(), sources.as_mut_ptr());
        for (at, request) in requests.iter().enumerate() {
            let wr = &mut chain[at];
            wr.wr_id = request.id;
            let (address, length, lkey) = request.source;
            if length > 0 {
                sources[at] = ibv_sge {
                    addr: address,
                    length,
                    lkey,
                };
                // SAFETY: a place of the array, which lives as long as the chain.
                wr.sg_list = unsafe { source.add(at) };
                wr.num_sge = 1;
            }
            let mut flags = 0;
            if request.signalled {
                flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
            }
            if request.inline {
                flags |= ibv_send_flags::IBV_SEND_INLINE.0;
            }
            wr.send_flags = flags;
            let (opcode, number, target) = match request.what {
                What::Write { address, rkey } => {
                    (ibv_wr_opcode::IBV_WR_RDMA_WRITE, 0, (address, rkey))
                }
                What::Tell {
                    address,
                    rkey,
                    notice,
                } => (
                    ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
                    notice,
                    (address, rkey),
                ),
                What::Number(number) => (ibv_wr_opcode::IBV_WR_SEND_WITH_IMM, number, (0, 0)),
            };
            wr.opcode = opcode;
            wr.imm_data_invalidated_rkey_union.imm_data = number.to_be();
            wr.wr.rdma = sys::rdma_t {
                remote_addr: target.0,
                rkey: target.1,
            };
            if at + 1 < requests.len() {
                // SAFETY: the next place of the array.
                wr.next = unsafe { first.add(at + 1) };
            }
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: the pair is alive and ready; the chain and its sources lie in the arrays, and the device copies them. The bytes they
        // point at are the segment's, which outlives the pair, and stay as they are until the completion by the contract of `put`.
        match unsafe { sys::ibv_post_send(self.qp, first, &raw mut bad) } {
            0 => Ok(()),
            code => Err(format!(
                "{} work requests were refused: {}",
                requests.len(),
                os(code)
            )),
        }
    }

    /// What the device has been told of the peer.
    pub fn route(&self) -> Result<Route, String> {
        let (mut attr, mask) = (
            blank(),
            ibv_qp_attr_mask::IBV_QP_AV | ibv_qp_attr_mask::IBV_QP_PATH_MTU,
        );
        // SAFETY: plain data, for which all zeros is a value.
        let mut made: sys::ibv_qp_init_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the pair is alive; both results are written here.
        match unsafe { sys::ibv_query_qp(self.qp, &raw mut attr, mask.0 as i32, &raw mut made) } {
            0 => {}
            code => return Err(format!("its queue pair cannot be asked: {}", os(code))),
        }
        let to = &attr.ah_attr;
        Ok(Route {
            mtu: 128 << attr.path_mtu,
            service_level: to.sl,
            traffic_class: to.grh.traffic_class,
            gid_index: to.grh.sgid_index,
            // SAFETY: both views of the union are plain bytes.
            to: ip_of(unsafe { to.grh.dgid.raw }),
        })
    }

    /// Puts the pair out of order, as a fault of the device would.
    pub fn fail(&mut self) -> Result<(), String> {
        let mut attr = blank();
        attr.qp_state = ibv_qp_state::IBV_QPS_ERR;
        self.modify(&mut attr, ibv_qp_attr_mask::IBV_QP_STATE)
            .map_err(|code| format!("the step to ERR was refused: {}", os(code)))
    }
}

impl<S> Drop for Pair<S> {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once: the steps hand it on.
        unsafe { sys::ibv_destroy_qp(self.qp) };
    }
}

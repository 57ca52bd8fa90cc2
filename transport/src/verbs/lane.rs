//! One queue pair to a peer, from a port of ours to one of its: puts and parts of puts in their order become work requests, completions
//! become what has left and what has come. It knows its queue pair, its credits and the keys of the peer's device, no other lane and no event.
//! Invariants: a notice is sent only for a credit, as is the word that the next one comes in parts, and a credit comes back only when the
//! receive it used has been posted again, so the peer's receives never run out; the send queue never holds more than it has room for, and at
//! least every `every`-th request tells of its completion, so it always empties; bytes are reported as sent when they have left for good,
//! which for short ones is when they have been copied into the request.

use super::Limits;
use super::device::Device;
use super::memory::{Key, Memory};
use super::pair::{BATCH, Pair, Ready, Request, Route, What};
use super::stripe::Done;
use super::sys::{self, ibv_wc, ibv_wc_opcode, ibv_wc_status};
use std::collections::VecDeque;

/// Puts the queue holds before it has to grow: more than a plan's window of puts to one peer.
const QUEUE: usize = 256;
/// Receives beside those for notices: credits come back in quarters, so that no more than this many are under way.
pub(super) const SPARE: u32 = 8;

/// What a completion belongs to. A failed one says nothing else that could be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkId {
    /// Less than 2^24.
    pub link: u32,
    pub lane: u8,
    pub work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Receive,
    /// The n-th send of the lane, modulo 2^31.
    Send(u32),
}

impl WorkId {
    pub fn encode(self) -> u64 {
        let work = match self.work {
            Work::Receive => 0,
            Work::Send(n) => 1 << 31 | n & 0x7FFF_FFFF,
        };
        u64::from(self.link) << 40 | u64::from(self.lane) << 32 | u64::from(work)
    }

    pub fn decode(id: u64) -> WorkId {
        let (link, lane, work) = ((id >> 40) as u32, (id >> 32) as u8, id as u32);
        let work = match work >> 31 {
            0 => Work::Receive,
            _ => Work::Send(work & 0x7FFF_FFFF),
        };
        WorkId { link, lane, work }
    }
}

/// A word of the sender's, in the number of a SEND: a count of credits, or with this bit the parts of the next notice.
const PARTS: u32 = 1 << 31;

/// Bytes that go on one lane, with a notice at their end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Offset in our segment.
    pub from: usize,
    pub len: usize,
    /// Offset in the peer's segment.
    pub to: usize,
    pub notice: u32,
    /// What has left with them.
    pub done: Done,
}

/// What has not wholly been posted.
#[derive(Clone, Copy)]
enum Waiting {
    /// The word that the next notice comes in so many parts.
    Parts(u32),
    /// So many bytes of the load have been posted.
    Load(Load, usize),
}

/// What the peer has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Notice(u32),
    /// The next notice comes in so many parts.
    Parts(u32),
}

pub(super) struct Lane {
    /// As completions name it, for a receive.
    id: WorkId,
    /// Which of our rails it is on.
    pub rail: usize,
    pair: Pair<Ready>,
    /// How the peer is reached, for errors.
    pub way: String,
    queue: VecDeque<Waiting>,
    /// What has been posted and not completed, the oldest first; short loads have been reported already.
    posted: VecDeque<Option<Done>>,
    /// Number of the next send.
    next: u32,
    /// Sends since the last one that tells of its completion.
    silent: u32,
    /// Notices we may send.
    credits: u32,
    /// Notices that have come since receives were posted.
    used: u32,
    /// Credits to give back.
    owed: u32,
    keys: Vec<Key>,
    limits: Limits,
}

impl Lane {
    pub fn new(id: WorkId, rail: usize, pair: Pair<Ready>, way: String, limits: Limits) -> Lane {
        Lane {
            id,
            rail,
            pair,
            way,
            queue: VecDeque::with_capacity(QUEUE),
            posted: VecDeque::with_capacity(limits.sends as usize),
            next: 0,
            silent: 0,
            credits: limits.credits,
            used: 0,
            owed: 0,
            keys: Vec::new(),
            limits,
        }
    }

    pub fn queued(&self) -> bool {
        !self.queue.is_empty() || self.owed > 0
    }

    /// Whether the device still has work of this lane.
    pub fn busy(&self) -> bool {
        !self.posted.is_empty()
    }

    pub fn push(&mut self, load: Load) {
        self.queue.push_back(Waiting::Load(load, 0));
    }

    /// The load that is pushed next is one of so many parts of a put: said on the main lane.
    pub fn announce(&mut self, parts: usize) {
        self.queue.push_back(Waiting::Parts(parts as u32));
    }

    pub fn learn(&mut self, key: Key) {
        let at = self
            .keys
            .partition_point(|known| known.range.start < key.range.start);
        self.keys.insert(at, key);
    }

    fn key(&self, offset: usize) -> Option<&Key> {
        let at = self.keys.partition_point(|key| key.range.end <= offset);
        self.keys.get(at).filter(|key| key.range.contains(&offset))
    }

    /// The number of its queue pair.
    pub fn pair_number(&self) -> u32 {
        self.pair.number()
    }

    /// How the device says the peer is reached.
    pub fn route(&self) -> Result<Route, String> {
        self.pair.route()
    }

    /// Puts the pair out of order, as a fault of the device would.
    pub fn fail(&mut self) -> Result<(), String> {
        self.pair.fail()
    }

    /// Posts what is queued, as far as room, credits and keys go. An offset whose key has to be asked for is the answer.
    pub fn advance(
        &mut self,
        device: &Device,
        memory: &mut Memory,
        sent: &mut impl FnMut(Done),
    ) -> Result<Option<usize>, String> {
        loop {
            let mut batch = [Request {
                id: 0,
                what: What::Number(0),
                source: (0, 0, 0),
                signalled: false,
                inline: false,
            }; BATCH];
            let mut len = 0;
            let mut need = None;
            while len < BATCH && self.posted.len() < self.limits.sends as usize {
                let request = match self.next_request(device, memory, sent)? {
                    Step::Post(request) => request,
                    Step::Need(offset) => {
                        need = Some(offset);
                        break;
                    }
                    Step::Nothing => break,
                };
                batch[len] = request;
                len += 1;
            }
            self.pair.post(&batch[..len])?;
            if len < BATCH {
                return Ok(need);
            }
        }
    }

    fn next_request(
        &mut self,
        device: &Device,
        memory: &mut Memory,
        sent: &mut impl FnMut(Done),
    ) -> Result<Step, String> {
        // The last place is kept for credits: the peer may need them before it can do anything for us.
        if self.owed > 0 {
            let request = self.request(What::Number(self.owed), (0, 0, 0), None, false);
            self.owed = 0;
            return Ok(Step::Post(request));
        }
        let room = self.posted.len() + 1 < self.limits.sends as usize;
        let Some(&waiting) = self.queue.front() else {
            return Ok(Step::Nothing);
        };
        if !room || self.credits == 0 {
            return Ok(Step::Nothing);
        }
        let (load, done) = match waiting {
            Waiting::Load(load, done) => (load, done),
            Waiting::Parts(parts) => {
                self.credits -= 1;
                self.queue.pop_front();
                let what = What::Number(PARTS | parts);
                return Ok(Step::Post(self.request(what, (0, 0, 0), None, false)));
            }
        };
        let (from, to) = (load.from + done, load.to + done);
        let (mut piece, mut target) = (load.len - done, (0, 0));
        if load.len > 0 {
            let Some(key) = self.key(to) else {
                return Ok(Step::Need(to));
            };
            piece = piece.min(key.range.end - to).min(device.longest);
            target = (key.address + (to - key.range.start) as u64, key.rkey);
        }
        let short = load.len <= self.pair.inline && piece == load.len;
        let mut lkey = 0;
        if !short {
            let (key, end) = memory.local(device, from)?;
            (lkey, piece) = (key, piece.min(end - from));
        }
        let last = done + piece == load.len;
        let at = match piece {
            0 => 0,
            _ => memory.segment().at(from, piece) as u64,
        };
        let (address, rkey) = target;
        let what = match last {
            true => What::Tell {
                address,
                rkey,
                notice: load.notice,
            },
            false => What::Write { address, rkey },
        };
        let leaves = (last && !short).then_some(load.done);
        let request = self.request(what, (at, piece as u32, lkey), leaves, short);
        if last {
            self.credits -= 1;
            self.queue.pop_front();
            if short {
                sent(load.done);
            }
        } else {
            self.queue[0] = Waiting::Load(load, done + piece);
        }
        Ok(Step::Post(request))
    }

    fn request(
        &mut self,
        what: What,
        source: (u64, u32, u32),
        leaves: Option<Done>,
        inline: bool,
    ) -> Request {
        self.silent += 1;
        let signalled = leaves.is_some() || self.silent >= self.limits.every;
        if signalled {
            self.silent = 0;
        }
        let work = Work::Send(self.next);
        self.next = (self.next + 1) & 0x7FFF_FFFF;
        self.posted.push_back(leaves);
        Request {
            id: WorkId { work, ..self.id }.encode(),
            what,
            source,
            signalled,
            inline: inline && source.1 > 0,
        }
    }

    /// A request that only tells that all before it are done: for a wire that is about to end.
    pub fn flush(&mut self) -> Result<(), String> {
        if self.silent == 0 || self.posted.len() >= self.limits.sends as usize {
            return Ok(());
        }
        self.silent = self.limits.every;
        let what = What::Write {
            address: 0,
            rkey: 0,
        };
        let request = self.request(what, (0, 0, 0), None, false);
        self.pair.post(&[request])
    }

    /// Takes one completion in.
    pub fn complete(
        &mut self,
        wc: &ibv_wc,
        work: Work,
        device: &Device,
        left: &mut impl FnMut(Done),
    ) -> Result<Option<Came>, String> {
        if wc.status != ibv_wc_status::IBV_WC_SUCCESS {
            return Err(explain(wc.status, work, device));
        }
        if let Work::Send(number) = work {
            return self.sent(number, left).map(|()| None);
        }
        // SAFETY: a completed receive of either kind carries a number, which is plain data.
        let number = u32::from_be(unsafe { wc.imm_data_invalidated_rkey_union.imm_data });
        if wc.opcode == ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM {
            return self.arrived().map(|()| Some(Came::Notice(number)));
        }
        match number & PARTS {
            0 => self.credited(number).map(|()| None),
            _ => self.arrived().map(|()| Some(Came::Parts(number & !PARTS))),
        }
    }

    /// All sends up to this one are done: they complete in order.
    fn sent(&mut self, number: u32, left: &mut impl FnMut(Done)) -> Result<(), String> {
        let oldest = self.next.wrapping_sub(self.posted.len() as u32) & 0x7FFF_FFFF;
        let done = (number.wrapping_sub(oldest) & 0x7FFF_FFFF) as usize + 1;
        if done > self.posted.len() {
            return Err(format!(
                "the device reports a send that is not under way (number {number})"
            ));
        }
        self.posted.drain(..done).flatten().for_each(left);
        Ok(())
    }

    /// Something has come that the peer had a credit for.
    fn arrived(&mut self) -> Result<(), String> {
        self.used += 1;
        if self.used + self.owed > self.limits.credits {
            return Err(format!(
                "more than {} notices have come that we gave no credit for: one was delivered twice",
                self.limits.credits
            ));
        }
        if self.used >= self.limits.credits.div_ceil(4) {
            self.receive(self.used)?;
            self.owed += std::mem::take(&mut self.used);
        }
        Ok(())
    }

    fn credited(&mut self, count: u32) -> Result<(), String> {
        self.receive(1)?;
        self.credits += count;
        if self.credits > self.limits.credits {
            return Err(
                "it has counted more notices than were sent to it: one was delivered twice".into(),
            );
        }
        Ok(())
    }

    fn receive(&mut self, count: u32) -> Result<(), String> {
        self.pair.receive(count as usize, self.id.encode())
    }
}

enum Step {
    Post(Request),
    Need(usize),
    Nothing,
}

/// A failed completion in words.
fn explain(status: ibv_wc_status::Type, work: Work, device: &Device) -> String {
    let what = match work {
        Work::Send(_) => "a put failed",
        Work::Receive => "receiving failed",
    };
    let (name, state) = (sys::status_name(status), device.state());
    let advice = match status {
        ibv_wc_status::IBV_WC_RETRY_EXC_ERR => {
            "its adapter did not answer: the process or the machine is gone, or the link between is down"
        }
        ibv_wc_status::IBV_WC_REM_ACCESS_ERR => {
            "it refused the address: start all ranks from one build"
        }
        ibv_wc_status::IBV_WC_WR_FLUSH_ERR => {
            "the queue pair was put out of order: see `dmesg` and `rdma resource show qp`"
        }
        _ => "see `dmesg` on both hosts",
    };
    format!("{what}: {name}; {advice}; our port is {state}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ids_come_back_as_they_went() {
        for link in [0, 1, 77, (1 << 24) - 1] {
            for work in [
                Work::Receive,
                Work::Send(0),
                Work::Send(1),
                Work::Send(0x7FFF_FFFF),
            ] {
                for lane in [0, 1, 7, u8::MAX] {
                    let id = WorkId { link, lane, work };
                    assert_eq!(WorkId::decode(id.encode()), id);
                }
            }
        }
    }
}

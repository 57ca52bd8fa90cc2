//! One connected peer: puts in their order become work requests, completions become events. It knows its queue pair, its credits and
//! the peer's keys, no other peer. Invariants: a notice is sent only for a credit, and a credit comes back only when the receive it
//! used has been posted again, so the peer's receives never run out; the send queue never holds more than it has room for, and at
//! least every `every`-th request tells of its completion, so it always empties; a put is reported as sent when its bytes have left
//! for good, which for short ones is when they have been copied into the request.

use super::Limits;
use super::device::Device;
use super::memory::{Key, Memory};
use super::pair::{BATCH, Pair, Ready, Request, Route, What};
use super::sys::{self, ibv_wc, ibv_wc_opcode, ibv_wc_status};
use crate::wire::{Event, Notice, Put};
use std::collections::VecDeque;

/// Puts the queue holds before it has to grow: more than a plan's window of puts to one peer.
const QUEUE: usize = 256;
/// Receives beside those for notices: credits come back in quarters, so that no more than this many are under way.
pub(super) const SPARE: u32 = 8;

/// What a completion belongs to. A failed one says nothing else that could be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkId {
    pub link: u32,
    pub work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Receive,
    /// The n-th send of the link, modulo 2^31.
    Send(u32),
}

impl WorkId {
    pub fn encode(self) -> u64 {
        let work = match self.work {
            Work::Receive => 0,
            Work::Send(n) => 1 << 31 | n & 0x7FFF_FFFF,
        };
        u64::from(self.link) << 32 | u64::from(work)
    }

    pub fn decode(id: u64) -> WorkId {
        let (link, work) = ((id >> 32) as u32, id as u32);
        let work = match work >> 31 {
            0 => Work::Receive,
            _ => Work::Send(work & 0x7FFF_FFFF),
        };
        WorkId { link, work }
    }
}

/// A put of which some has not been posted.
struct Waiting {
    put: Put,
    done: usize,
}

pub(super) struct Link {
    pub rank: usize,
    /// Place among the links of the wire.
    number: u32,
    pair: Pair<Ready>,
    /// Why this link is of no use any more.
    pub fault: Option<String>,
    /// How the peer is reached, for errors.
    pub way: String,
    queue: VecDeque<Waiting>,
    /// Tickets of what has been posted and not completed, the oldest first; short puts have been reported already.
    posted: VecDeque<Option<u64>>,
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
    /// An offset whose key has been asked for.
    pub asked: Option<usize>,
    limits: Limits,
}

impl Link {
    pub fn new(rank: usize, number: u32, pair: Pair<Ready>, way: String, limits: Limits) -> Link {
        Link {
            rank,
            number,
            pair,
            fault: None,
            way,
            queue: VecDeque::with_capacity(QUEUE),
            posted: VecDeque::with_capacity(limits.sends as usize),
            next: 0,
            silent: 0,
            credits: limits.credits,
            used: 0,
            owed: 0,
            keys: Vec::new(),
            asked: None,
            limits,
        }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn queued(&self) -> bool {
        !self.queue.is_empty() || self.owed > 0
    }

    /// Whether the device still has work of this link.
    pub fn busy(&self) -> bool {
        !self.posted.is_empty()
    }

    pub fn push(&mut self, put: Put) {
        self.queue.push_back(Waiting { put, done: 0 });
    }

    pub fn learn(&mut self, key: Key) {
        self.asked = None;
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
        events: &mut Vec<Event>,
    ) -> Result<Option<usize>, String> {
        loop {
            let mut batch = [Request {
                id: 0,
                what: What::Credit(0),
                source: (0, 0, 0),
                signalled: false,
                inline: false,
            }; BATCH];
            let mut len = 0;
            let mut need = None;
            while len < BATCH && self.posted.len() < self.limits.sends as usize {
                let request = match self.next_request(device, memory, events)? {
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
        events: &mut Vec<Event>,
    ) -> Result<Step, String> {
        // The last place is kept for credits: the peer may need them before it can do anything for us.
        if self.owed > 0 {
            let request = self.request(What::Credit(self.owed), (0, 0, 0), None, false);
            self.owed = 0;
            return Ok(Step::Post(request));
        }
        let room = self.posted.len() + 1 < self.limits.sends as usize;
        let Some(Waiting { put, done }) = self.queue.front() else {
            return Ok(Step::Nothing);
        };
        if !room || self.credits == 0 {
            return Ok(Step::Nothing);
        }
        let (put, done) = (*put, *done);
        let (mut piece, mut target) = (put.len - done, (0, 0));
        if put.len > 0 {
            let Some(key) = self.key(put.to + done) else {
                return Ok(Step::Need(put.to + done));
            };
            piece = piece
                .min(key.range.end - (put.to + done))
                .min(device.longest);
            target = (
                key.address + (put.to + done - key.range.start) as u64,
                key.rkey,
            );
        }
        let short = put.len <= self.pair.inline && piece == put.len;
        let mut lkey = 0;
        if !short {
            let (key, end) = memory.local(device, put.from + done)?;
            (lkey, piece) = (key, piece.min(end - (put.from + done)));
        }
        let last = done + piece == put.len;
        let at = if piece > 0 {
            memory.segment().at(put.from + done, piece) as u64
        } else {
            0
        };
        let (address, rkey) = target;
        let what = match last {
            true => What::Tell {
                address,
                rkey,
                notice: put.notice.0,
            },
            false => What::Write { address, rkey },
        };
        let ticket = (last && !short).then_some(put.ticket);
        let request = self.request(what, (at, piece as u32, lkey), ticket, short);
        if last {
            self.credits -= 1;
            self.queue.pop_front();
            if short {
                events.push(Event::Sent { ticket: put.ticket });
            }
        } else if let Some(front) = self.queue.front_mut() {
            front.done += piece;
        }
        Ok(Step::Post(request))
    }

    fn request(
        &mut self,
        what: What,
        source: (u64, u32, u32),
        ticket: Option<u64>,
        inline: bool,
    ) -> Request {
        self.silent += 1;
        let signalled = ticket.is_some() || self.silent >= self.limits.every;
        if signalled {
            self.silent = 0;
        }
        let work = Work::Send(self.next);
        self.next = (self.next + 1) & 0x7FFF_FFFF;
        self.posted.push_back(ticket);
        Request {
            id: WorkId {
                link: self.number,
                work,
            }
            .encode(),
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
    pub fn complete(&mut self, wc: &ibv_wc, work: Work, device: &Device, events: &mut Vec<Event>) {
        if wc.status != ibv_wc_status::IBV_WC_SUCCESS {
            self.fault
                .get_or_insert_with(|| explain(wc.status, work, &self.way, device));
            return;
        }
        let result = match work {
            Work::Send(number) => self.sent(number, events),
            Work::Receive => {
                // SAFETY: a completed receive of either kind carries a number, which is plain data.
                let number = u32::from_be(unsafe { wc.imm_data_invalidated_rkey_union.imm_data });
                match wc.opcode {
                    ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => self.arrived(number, events),
                    _ => self.credited(number),
                }
            }
        };
        if let Err(cause) = result {
            self.fault.get_or_insert(cause);
        }
    }

    /// All sends up to this one are done: they complete in order.
    fn sent(&mut self, number: u32, events: &mut Vec<Event>) -> Result<(), String> {
        let oldest = self.next.wrapping_sub(self.posted.len() as u32) & 0x7FFF_FFFF;
        let done = (number.wrapping_sub(oldest) & 0x7FFF_FFFF) as usize + 1;
        if done > self.posted.len() {
            return Err(format!(
                "the device reports a send that is not under way (number {number})"
            ));
        }
        let tickets = self.posted.drain(..done).flatten();
        events.extend(tickets.map(|ticket| Event::Sent { ticket }));
        Ok(())
    }

    fn arrived(&mut self, notice: u32, events: &mut Vec<Event>) -> Result<(), String> {
        events.push(Event::Arrived {
            from: self.rank,
            notice: Notice(notice),
        });
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
        let id = WorkId {
            link: self.number,
            work: Work::Receive,
        }
        .encode();
        self.pair.receive(count as usize, id)
    }
}

enum Step {
    Post(Request),
    Need(usize),
    Nothing,
}

/// A failed completion in words.
fn explain(status: ibv_wc_status::Type, work: Work, way: &str, device: &Device) -> String {
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
    format!("{what}: {name}; {advice} ({way}; our port is {state})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ids_come_back_as_they_went() {
        for link in [0, 1, 77, u32::MAX] {
            for work in [
                Work::Receive,
                Work::Send(0),
                Work::Send(1),
                Work::Send(0x7FFF_FFFF),
            ] {
                let id = WorkId { link, work };
                assert_eq!(WorkId::decode(id.encode()), id);
            }
        }
    }
}

//! What the wire and the device report: puts and copies that have ended, and notices of other nodes.

use super::{CHUNK_BITS, Engine, Fault, counter_of};
use hfr_transport::{Event, Notice, Transport};

impl Engine {
    /// Lets the wire make progress and takes what it reports.
    pub(super) fn poll(&mut self) -> Result<bool, Fault> {
        let Some(transport) = &mut self.transport else {
            return Ok(false);
        };
        let mut events = std::mem::take(&mut self.events);
        let (landings, runs, board) = (&mut self.landings, &self.runs, &self.board);
        let polled = transport.poll_landing(
            &mut |notice, bytes| landings.of(runs, board, notice, bytes),
            &mut events,
        );
        let moved = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Sent { ticket } => self.finish_ticket(ticket),
                Event::Arrived { notice, .. } => self.arrived(notice),
            }
        }
        self.events = events;
        match polled {
            Ok(()) => Ok(moved),
            Err(error) => Err(Fault::Wire {
                error,
                ours: self.current(),
            }),
        }
    }

    /// Takes what the device reports.
    pub(super) fn poll_device(&mut self) -> Result<bool, Fault> {
        let Some(device) = self.device.as_mut().filter(|d| d.busy()) else {
            return Ok(false);
        };
        let mut copied = std::mem::take(&mut self.copied);
        let polled = device.poll(&mut copied);
        let moved = !copied.is_empty();
        for ticket in copied.drain(..) {
            self.finish_ticket(ticket);
        }
        self.copied = copied;
        let ours = self.current();
        polled.map_err(|error| Fault::Device { error, ours })?;
        Ok(moved)
    }

    fn finish_ticket(&mut self, ticket: u64) {
        let (run, step) = (
            (ticket >> 32) as usize,
            (ticket & u64::from(u32::MAX)) as usize,
        );
        let r = &mut self.runs[run];
        let turn = r.turn(r.done[step]);
        self.finish(run, step, turn);
    }

    fn arrived(&mut self, notice: Notice) {
        let counter = counter_of(notice);
        let raise = self.arrivals.get(counter).and_then(Option::as_ref);
        let raise = raise.expect("a notice names a counter of an installed plan");
        let chunk = self.board.load(counter);
        assert_eq!(
            chunk & ((1 << CHUNK_BITS) - 1),
            u64::from(notice.0) & ((1 << CHUNK_BITS) - 1),
            "notices of one counter arrive in order"
        );
        self.board.store(counter, chunk + 1);
        self.bells.owe(raise);
    }
}

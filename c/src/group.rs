//! Calls, alone and in groups: what a thread notes between hfrGroupStart and hfrGroupEnd starts together. Knows calls only as something to
//! start. Invariant: nothing of a group runs before its outermost end, and nothing at all if one of its calls was refused.

use crate::{
    comm::{self, Comm, Handle, Start},
    fail::{self, Fail, Outcome, guard},
    own,
    stream::{Sides, Stream, Way, way},
    value::Code,
};
use hfr::{Block, Communicator, DType, Enqueued, Error, Pending, RawCall, device};
use std::{cell::RefCell, collections::BTreeMap, ptr::null, sync::Arc, thread::JoinHandle};

/// A call whose arguments are good.
pub enum Call {
    Collective(RawCall),
    Send {
        dtype: DType,
        count: usize,
        from: *const u8,
        to: usize,
    },
    Recv {
        dtype: DType,
        count: usize,
        into: *mut u8,
        from: usize,
    },
}

/// Messages of a pair of ranks have no tags: NCCL's have none.
const TAG: u64 = 0;

impl Call {
    /// # Safety
    /// The buffers are good until it has ended.
    unsafe fn start(self, on: &Communicator) -> Pending {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Call::Collective(call) => on.start(call),
                Call::Send {
                    dtype,
                    count,
                    from,
                    to,
                } => on.start_send(dtype, count, from, to, TAG),
                Call::Recv {
                    dtype,
                    count,
                    into,
                    from,
                } => on.start_recv(dtype, count, into, from, TAG),
            }
        }
    }

    /// # Safety
    /// The buffers are good, as `Communicator::enqueue` has it.
    unsafe fn enqueue(self, on: &Communicator, stream: device::Stream) -> Result<Enqueued, Error> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Call::Collective(call) => on.enqueue(call, stream),
                Call::Send {
                    dtype,
                    count,
                    from,
                    to,
                } => on.enqueue_send(dtype, count, from, to, TAG, stream),
                Call::Recv {
                    dtype,
                    count,
                    into,
                    from,
                } => on.enqueue_recv(dtype, count, into, from, TAG, stream),
            }
        }
    }

    /// Where the buffers are.
    fn sides(&self) -> Sides {
        let first = |blocks: &[Block], whole: *const u8| {
            let some = blocks.iter().find(|block| block.count > 0);
            some.map_or(whole, |block| block.at.cast_const())
        };
        match self {
            Call::Collective(call) => match &call.blocks {
                Some(blocks) => [&blocks.input, &blocks.output].map(|side| first(side, null())),
                None if call.count > 0 => [call.input, call.output.cast_const()],
                None => [null(), null()],
            },
            Call::Send { count, from, .. } if *count > 0 => [*from, null()],
            Call::Recv { count, into, .. } if *count > 0 => [null(), into.cast_const()],
            Call::Send { .. } | Call::Recv { .. } => [null(), null()],
        }
    }

    /// # Safety
    /// The buffers are good until this returns.
    unsafe fn run(self, on: &Communicator) -> Result<(), Error> {
        // SAFETY: the caller's promise; both forms end before this returns.
        unsafe {
            match self {
                Call::Collective(call) => on.run(call),
                other => other.start(on).wait(),
            }
        }
    }
}

/// A call that a group has noted.
pub struct Noted {
    pub comm: Arc<Comm>,
    pub on: Arc<Communicator>,
    what: &'static str,
    pub call: Call,
    pub way: Way,
}

/// What a thread has noted.
#[derive(Default)]
struct Group {
    depth: usize,
    starts: Vec<Start>,
    calls: Vec<Noted>,
    refused: Option<Fail>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Whether the thread is in a group. A thread that is ending is in none.
fn open() -> bool {
    GROUP
        .try_with(|group| group.borrow().depth > 0)
        .unwrap_or(false)
}

/// The body of an exported function that a group notes: a failure in a group is the group's.
pub fn noted_by_group(code: Code) -> Code {
    if !matches!(code, Code::Success | Code::InProgress) && open() {
        let fail = Fail::complete(code, fail::last());
        GROUP.with_borrow_mut(|group| {
            group.refused.get_or_insert(fail);
        });
    }
    code
}

/// The body of an exported function that makes a call: checks handle and stream, has `make` check the rest, and runs, starts or notes it.
///
/// # Safety
/// What `make` returns has buffers that are good for it, as the header has it.
pub unsafe fn call(
    what: &'static str,
    handle: Handle,
    stream: Stream,
    make: impl FnOnce(&Comm, &Communicator) -> Outcome<Call>,
) -> Code {
    let code = comm::on(what, handle, |comm| {
        let on = comm.ready()?;
        let call = make(comm, &on)?;
        let way = way(comm, stream, call.sides())?;
        let noted = Noted {
            comm: comm.clone(),
            on,
            what,
            call,
            way,
        };
        if open() {
            GROUP.with_borrow_mut(|group| group.calls.push(noted));
            return Ok(Code::Success);
        }
        // SAFETY: the caller's promise.
        unsafe { alone(noted) }
    });
    noted_by_group(code)
}

/// Runs a call, starts it on a communicator that does not block, or puts it on its stream.
///
/// # Safety
/// Its buffers are good, as the header has it.
unsafe fn alone(noted: Noted) -> Outcome<Code> {
    if own::is_own(&noted) {
        return Err(Fail::argument(
            "a message to the own rank; put it and its counterpart into one hfrGroupStart and hfrGroupEnd",
        ));
    }
    let Noted {
        comm,
        on,
        call,
        way,
        ..
    } = noted;
    if let Way::On(stream) = way {
        // SAFETY: the caller's promise.
        let enqueued = unsafe { call.enqueue(&on, stream) }?;
        comm.watch_on_stream(enqueued.pending());
        enqueued.block(stream)?;
        return Ok(Code::Success);
    }
    if comm.blocking {
        // SAFETY: the caller's promise.
        unsafe { call.run(&on) }?;
        return Ok(Code::Success);
    }
    // SAFETY: the caller's promise.
    let pending = unsafe { call.start(&on) };
    // What is wrong with the call itself is most often known at once.
    if let Some(outcome) = pending.result() {
        outcome?;
    }
    comm.watch(&pending);
    Ok(Code::InProgress)
}

/// Starts a communicator: at once, on a thread, or with the group.
pub fn start(start: Start) -> Outcome<Code> {
    if open() {
        GROUP.with_borrow_mut(|group| group.starts.push(start));
        return Ok(Code::Success);
    }
    if start.blocking() {
        start.run()?;
        return Ok(Code::Success);
    }
    Start::spawn(vec![start])?;
    Ok(Code::InProgress)
}

/// Begins a group on this thread.
///
/// # Safety
/// None needed; exported functions are all alike to C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGroupStart() -> Code {
    guard("hfrGroupStart", || {
        GROUP.with_borrow_mut(|group| group.depth += 1);
        Ok(Code::Success)
    })
}

/// Ends a group on this thread; the outermost starts what was noted.
///
/// # Safety
/// Buffers of the calls that were noted are good, as the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGroupEnd() -> Code {
    guard("hfrGroupEnd", || {
        let group = GROUP.with_borrow_mut(|group| match group.depth {
            0 => Err(Fail::usage("no group has begun; call hfrGroupStart first")),
            1 => Ok(std::mem::take(group)),
            _ => {
                group.depth -= 1;
                Ok(Group::default())
            }
        })?;
        match group.refused {
            Some(refused) => Err(refused),
            // SAFETY: the caller's promise.
            None => unsafe { together(group.starts, group.calls) },
        }
    })
}

/// Forgets what was noted in the group that ends; nothing of it is started.
pub fn forget() -> Outcome<()> {
    GROUP.with_borrow_mut(|group| {
        if group.depth == 0 {
            return Err(Fail::usage("no group has begun; call hfrGroupStart first"));
        }
        group.depth -= 1;
        if group.depth == 0 {
            // What was to start has failed, and says so.
            drop(std::mem::take(group));
        }
        Ok(())
    })
}

/// Starts everything, then waits for what blocks.
///
/// # Safety
/// The buffers of the calls are good, as the header has it.
unsafe fn together(starts: Vec<Start>, calls: Vec<Noted>) -> Outcome<Code> {
    // SAFETY: the caller's promise.
    let mut calls = unsafe { own::deliver(calls) }?;
    if starts.is_empty() && calls.len() == 1 {
        return match calls.pop() {
            // SAFETY: the caller's promise.
            Some(only) => unsafe { one(only) },
            None => Ok(Code::Success),
        };
    }
    let mut code = Code::Success;
    let (splits, joins): (Vec<Start>, Vec<Start>) =
        starts.into_iter().partition(|s| s.parent().is_some());
    let mut threads = Vec::new();
    for join in joins {
        threads.push((join.blocking(), Start::spawn(vec![join])));
    }
    // SAFETY: the caller's promise.
    let begun = unsafe { Begun::of(calls) };
    let mut by_parent: BTreeMap<Option<usize>, Vec<Start>> = BTreeMap::new();
    for split in splits {
        by_parent.entry(split.parent()).or_default().push(split);
    }
    for splits in by_parent.into_values() {
        let blocking = splits.iter().all(Start::blocking);
        threads.push((blocking, Start::spawn(splits)));
    }
    let mut first = match begun.ended() {
        Ok(Code::InProgress) => {
            code = Code::InProgress;
            Ok(())
        }
        other => other.map(|_| ()),
    };
    for (blocking, thread) in threads {
        match thread {
            Err(fail) => first = first.and(Err(fail)),
            Ok(_) if !blocking => code = Code::InProgress,
            Ok(thread) => first = first.and(joined(thread)),
        }
    }
    first.map(|()| code)
}

/// A call of a group: whose it is and what it is called.
struct Whose {
    comm: Arc<Comm>,
    on: Arc<Communicator>,
    what: &'static str,
}

impl Whose {
    /// What has come of it, with who and what in front of a failure.
    fn told(&self, outcome: Result<(), Error>) -> Outcome<()> {
        outcome.map_err(|error| {
            let fail = Fail::from(error).within(self.what, Some(self.on.rank()));
            self.comm.noted(fail)
        })
    }
}

/// The calls of a group, under way: those that are waited for, and what has gone wrong so far.
struct Begun {
    waits: Vec<(Whose, Pending)>,
    first: Outcome<()>,
    code: Code,
}

impl Begun {
    /// Starts all, in their order; then those that are on streams hold these up. Not before: the streams of two ranks may be one.
    ///
    /// # Safety
    /// The buffers of the calls are good, as the header has it.
    unsafe fn of(calls: Vec<Noted>) -> Begun {
        let mut begun = Begun {
            waits: Vec::new(),
            first: Ok(()),
            code: Code::Success,
        };
        let mut holds = Vec::new();
        for noted in calls {
            let Noted { comm, on, what, .. } = noted;
            let whose = Whose { comm, on, what };
            match noted.way {
                // SAFETY: the caller's promise.
                Way::On(stream) => match unsafe { noted.call.enqueue(&whose.on, stream) } {
                    Ok(enqueued) => {
                        whose.comm.watch_on_stream(enqueued.pending());
                        holds.push((whose, enqueued, stream));
                    }
                    Err(error) => begun.note(whose.told(Err(error))),
                },
                Way::Host => {
                    // SAFETY: the caller's promise.
                    let pending = unsafe { noted.call.start(&whose.on) };
                    if whose.comm.blocking {
                        begun.waits.push((whose, pending));
                    } else {
                        whose.comm.watch(&pending);
                        begun.code = Code::InProgress;
                    }
                }
            }
        }
        for (whose, enqueued, stream) in holds {
            begun.note(whose.told(enqueued.block(stream)));
        }
        begun
    }

    fn note(&mut self, outcome: Outcome<()>) {
        if self.first.is_ok() {
            self.first = outcome;
        }
    }

    /// Waits for the calls of communicators that block.
    fn ended(mut self) -> Outcome<Code> {
        for (whose, pending) in std::mem::take(&mut self.waits) {
            let outcome = pending.wait();
            self.note(whose.told(outcome));
        }
        self.first.map(|()| self.code)
    }
}

/// A group of one call.
///
/// # Safety
/// As for `alone`.
unsafe fn one(only: Noted) -> Outcome<Code> {
    let (comm, what, rank) = (only.comm.clone(), only.what, only.on.rank());
    // SAFETY: the caller's promise.
    let outcome = unsafe { alone(only) };
    outcome.map_err(|fail| comm.noted(fail.within(what, Some(rank))))
}

fn joined(thread: JoinHandle<Outcome<()>>) -> Outcome<()> {
    thread.join().unwrap_or_else(|_| {
        Err(Fail::new(
            Code::InternalError,
            "a thread that starts communicators has died",
        ))
    })
}

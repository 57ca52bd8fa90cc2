//! Calls, alone and in groups: what a thread notes between hfrGroupStart and hfrGroupEnd starts together. Knows calls only as something to
//! start. Invariant: nothing of a group runs before its outermost end, and nothing at all if one of its calls was refused.

use crate::{
    comm::{self, Comm, Handle, Start},
    fail::{self, Fail, Outcome, guard},
    own,
    value::Code,
};
use hfr::{Communicator, DType, Error, Pending, RawCall};
use std::{cell::RefCell, collections::BTreeMap, ffi::c_void, sync::Arc, thread::JoinHandle};

/// `hfrStream_t`.
pub type Stream = *mut c_void;

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
        host(stream)?;
        let call = make(comm, &on)?;
        let noted = Noted {
            comm: comm.clone(),
            on,
            what,
            call,
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

/// The stream must be none.
pub fn host(stream: Stream) -> Outcome<()> {
    if stream.is_null() {
        return Ok(());
    }
    Err(Fail::argument(
        "the stream is not NULL; buffers are host memory here, so pass NULL",
    ))
}

/// Runs a call, or starts it on a communicator that does not block.
///
/// # Safety
/// Its buffers are good, as the header has it.
unsafe fn alone(noted: Noted) -> Outcome<Code> {
    if own::is_own(&noted) {
        return Err(Fail::argument(
            "a message to the own rank; put it and its counterpart into one hfrGroupStart and hfrGroupEnd",
        ));
    }
    let Noted { comm, on, call, .. } = noted;
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
    let mut waits = Vec::new();
    for Noted {
        comm,
        on,
        what,
        call,
    } in calls
    {
        // SAFETY: the caller's promise.
        let pending = unsafe { call.start(&on) };
        if comm.blocking {
            waits.push((comm, on, what, pending));
        } else {
            comm.watch(&pending);
            code = Code::InProgress;
        }
    }
    let mut by_parent: BTreeMap<Option<usize>, Vec<Start>> = BTreeMap::new();
    for split in splits {
        by_parent.entry(split.parent()).or_default().push(split);
    }
    for splits in by_parent.into_values() {
        let blocking = splits.iter().all(Start::blocking);
        threads.push((blocking, Start::spawn(splits)));
    }
    let mut first = Ok(());
    for (comm, on, what, pending) in waits {
        let outcome = pending.wait().map_err(|error| {
            let fail = Fail::from(error).within(what, Some(on.rank()));
            comm.noted(fail)
        });
        first = first.and(outcome);
    }
    for (blocking, thread) in threads {
        match thread {
            Err(fail) => first = first.and(Err(fail)),
            Ok(_) if !blocking => code = Code::InProgress,
            Ok(thread) => first = first.and(joined(thread)),
        }
    }
    first.map(|()| code)
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

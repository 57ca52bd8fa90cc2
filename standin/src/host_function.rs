//! Host functions: all of a context run on one thread, in the order in which their streams reach them, as the driver may do. It knows no stream.
//! Invariant: a stream goes on when its function has returned; nobody calls the driver from within one.

use crate::{
    act::{Act, HostFunction},
    code::{Answer, INVALID_VALUE},
    driver::state,
    export::exports,
    stream::{self, StreamHandle},
};
use std::{
    cell::Cell,
    ffi::c_void,
    sync::{
        Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is running a host function.
pub fn is_inside() -> bool {
    INSIDE.get()
}

struct Job {
    function: extern "C" fn(*mut c_void),
    argument: usize,
    done: Sender<()>,
}

/// The thread of a context's host functions; it starts with the first one and ends with the context.
#[derive(Default)]
pub struct HostThread(Mutex<Option<Sender<Job>>>);

impl HostThread {
    fn start() -> Sender<Job> {
        let (give, take) = channel::<Job>();
        let run = move || {
            for job in take {
                INSIDE.set(true);
                (job.function)(job.argument as *mut c_void);
                INSIDE.set(false);
                // The stream's thread is waiting for it.
                let _ = job.done.send(());
            }
        };
        std::thread::Builder::new()
            .name("standin host".to_owned())
            .spawn(run)
            .expect("a thread for host functions");
        give
    }

    /// Runs a function when all that were ready before it have returned; returns when it has.
    pub fn run(&self, function: &HostFunction) {
        let (done, wait) = channel();
        let job = Job {
            function: function.function,
            argument: function.argument,
            done,
        };
        let sent = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(Self::start)
            .send(job);
        sent.expect("the thread of host functions outlives its context");
        wait.recv().expect("the function is run");
    }
}

fn launch(
    stream: StreamHandle,
    function: Option<extern "C" fn(*mut c_void)>,
    argument: usize,
) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, stream)?;
    let function = function.ok_or(INVALID_VALUE)?;
    stream::enqueue(
        &mut state,
        stream,
        Act::Call(HostFunction { function, argument }),
        &[],
    );
    Ok(())
}

exports! {
    fn cuLaunchHostFunc(stream: StreamHandle, function: Option<extern "C" fn(*mut c_void)>, argument: usize) { launch(stream, function, argument) }
}

//! One rank of a collective under a measuring core that other libraries are measured with as well: a shared library, named by `HB_LIB`, that
//! brings the buffers, times the calls and checks what they give (`hb_init`, `hb_dtype`, `hb_inplace`, `hb_bench`, in C). Who starts the ranks tells
//! them RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does, and in HB_NODE which node they play. `HB_COLLECTIVE` says which collective:
//! all_reduce if nothing else; broadcast or reduce, in place, with rank 0 as root; all_gather, reduce_scatter or all_to_all, with two buffers. The core's count is the elements of
//! the larger buffer, as nccl-tests counts: of the input of reduce_scatter, of the output of all_gather. It knows no figure.

use half::{bf16, f16};
use hfreduce::{Communicator, Config, Element, Error, ReduceOp};
use std::ffi::{c_int, c_long, c_void};

type Operation = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, usize);

/// What an operation is called with.
struct Context {
    group: Communicator,
    collective: String,
    dtype: c_int,
}

impl Context {
    /// # Safety
    /// `send` and `recv` are `count` elements each, or the same ones.
    unsafe fn run<T: Element>(&self, send: *mut c_void, recv: *mut c_void, count: usize) {
        // SAFETY: as the caller promises.
        let output = unsafe { std::slice::from_raw_parts_mut(recv.cast::<T>(), count) };
        let done = if send == recv {
            self.in_place(output)
        } else {
            // SAFETY: another buffer than the output.
            let input = unsafe { std::slice::from_raw_parts(send.cast::<T>(), count) };
            self.between(input, output)
        };
        done.unwrap_or_else(|e| panic!("{e}"));
    }

    fn in_place<T: Element>(&self, buffer: &mut [T]) -> Result<(), Error> {
        match self.collective.as_str() {
            "all_reduce" => self.group.all_reduce(buffer, ReduceOp::Sum),
            "broadcast" => self.group.broadcast(buffer, 0),
            "reduce" => self.group.reduce(buffer, ReduceOp::Sum, 0),
            other => panic!("HB_COLLECTIVE={other} is none that is measured in place"),
        }
    }

    fn between<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        let group = &self.group;
        let share = input.len() / group.size();
        match self.collective.as_str() {
            "all_reduce" => group.all_reduce_into(input, output, ReduceOp::Sum),
            "all_gather" => group.all_gather(&input[..share], output),
            "reduce_scatter" => group.reduce_scatter(input, &mut output[..share], ReduceOp::Sum),
            "all_to_all" => group.all_to_all(input, output),
            other => panic!("HB_COLLECTIVE={other} is none that is measured with two buffers"),
        }
    }
}

unsafe extern "C" fn operation(
    context: *mut c_void,
    send: *mut c_void,
    recv: *mut c_void,
    count: usize,
) {
    // SAFETY: what `main` passes on lives until the core returns.
    let context = unsafe { &*context.cast::<Context>() };
    // SAFETY: the core's buffers hold `count` elements of the type it has named.
    unsafe {
        match context.dtype {
            0 => context.run::<f32>(send, recv, count),
            1 => context.run::<bf16>(send, recv, count),
            2 => context.run::<f16>(send, recv, count),
            _ => context.run::<f64>(send, recv, count),
        }
    }
}

fn main() {
    let mut config = Config::from_env().unwrap_or_else(|e| panic!("{e}"));
    if let Ok(node) = std::env::var("HB_NODE") {
        config.node = format!("node {node}");
    }
    let path = std::env::var("HB_LIB").expect("HB_LIB names the measuring core");
    // SAFETY: the core is a library without constructors that touch us, and its functions have these types.
    let wrong = unsafe {
        let core = libloading::Library::new(path).expect("the measuring core");
        let init: libloading::Symbol<unsafe extern "C" fn(c_int, c_int) -> c_int> =
            core.get(b"hb_init").expect("hb_init");
        init(-1, -1);
        let dtype: libloading::Symbol<unsafe extern "C" fn() -> c_int> =
            core.get(b"hb_dtype").expect("hb_dtype");
        let group = Communicator::connect(&config).unwrap_or_else(|e| panic!("{e}"));
        let mut context = Context {
            group,
            collective: std::env::var("HB_COLLECTIVE").unwrap_or_else(|_| "all_reduce".to_owned()),
            dtype: dtype(),
        };
        let bench: libloading::Symbol<unsafe extern "C" fn(Operation, *mut c_void) -> c_long> =
            core.get(b"hb_bench").expect("hb_bench");
        bench(operation, (&raw mut context).cast())
    };
    assert_eq!(wrong, 0, "wrong elements");
}

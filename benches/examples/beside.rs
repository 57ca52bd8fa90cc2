//! One rank of all_reduce under a measuring core that other libraries are measured with as well: a shared library, named by `HB_LIB`, that brings the
//! buffers, times the calls and checks the sums (`hb_init`, `hb_dtype`, `hb_inplace`, `hb_bench`, in C). Who starts the ranks tells them
//! RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does, and in HB_NODE which node they play. It knows no figure.

use half::{bf16, f16};
use hfreduce::{Communicator, Config, ReduceOp};
use std::ffi::{c_int, c_long, c_void};

type Operation = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, usize);

/// What an operation is called with.
struct Context {
    group: Communicator,
    dtype: c_int,
}

/// # Safety
/// `send` and `recv` are `count` elements each, or the same ones.
unsafe fn reduce<T: hfreduce::Element>(
    group: &Communicator,
    send: *mut c_void,
    recv: *mut c_void,
    count: usize,
) {
    // SAFETY: as the caller promises.
    let output = unsafe { std::slice::from_raw_parts_mut(recv.cast::<T>(), count) };
    let done = if send == recv {
        group.all_reduce(output, ReduceOp::Sum)
    } else {
        // SAFETY: another buffer than the output.
        let input = unsafe { std::slice::from_raw_parts(send.cast::<T>(), count) };
        group.all_reduce_into(input, output, ReduceOp::Sum)
    };
    done.unwrap_or_else(|e| panic!("{e}"));
}

unsafe extern "C" fn all_reduce(
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
            0 => reduce::<f32>(&context.group, send, recv, count),
            1 => reduce::<bf16>(&context.group, send, recv, count),
            2 => reduce::<f16>(&context.group, send, recv, count),
            _ => reduce::<f64>(&context.group, send, recv, count),
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
            dtype: dtype(),
        };
        let bench: libloading::Symbol<unsafe extern "C" fn(Operation, *mut c_void) -> c_long> =
            core.get(b"hb_bench").expect("hb_bench");
        bench(all_reduce, (&raw mut context).cast())
    };
    assert_eq!(wrong, 0, "wrong elements");
}

//! What the driver says about an address: device memory, pinned host memory, or nothing it knows. It reads the tables and changes none.

use crate::{
    code::{Answer, Code, INVALID_VALUE, NOT_SUPPORTED},
    driver::{State, state},
    export::{Out, exports},
};
use std::ffi::c_void;

/// What is known of the range that an address lies in.
struct Known {
    start: usize,
    len: usize,
    context: usize,
    on_device: bool,
}

fn find(state: &State, at: usize) -> Option<Known> {
    let device = state.memory.find(at).map(|(start, len, context)| Known {
        start,
        len,
        context,
        on_device: true,
    });
    device.or_else(|| {
        let own = state.registrations.find(at)?;
        Some(Known {
            start: own.start,
            len: own.len,
            context: own.context,
            on_device: false,
        })
    })
}

/// Writes one attribute, by the driver's number.
fn give(state: &State, out: &Out<c_void>, number: u32, at: usize) -> Answer {
    let known = find(state, at).ok_or(INVALID_VALUE)?;
    match number {
        1 => out.of::<usize>().give(known.context),
        2 => out.of::<u32>().give(1 + u32::from(known.on_device)),
        3 => out.of::<usize>().give(at),
        4 if known.on_device => Err(INVALID_VALUE),
        4 => out.of::<usize>().give(at),
        // Sync-memops and managed: no.
        6 | 8 => out.of::<u32>().give(0),
        7 => out.of::<u64>().give(known.start as u64),
        9 => out
            .of::<i32>()
            .give(state.contexts.device(known.context).ok_or(INVALID_VALUE)?),
        11 => out.of::<usize>().give(known.start),
        12 => out.of::<usize>().give(known.len),
        13 => out.of::<u32>().give(1),
        _ => Err(NOT_SUPPORTED),
    }
}

/// What the call for several attributes writes where there is nothing to say.
fn give_nothing(out: &Out<c_void>, number: u32) -> Answer {
    match number {
        2 | 6 | 8 | 13 => out.of::<u32>().give(0),
        9 => out.of::<i32>().give(-2),
        1 | 3 | 4 | 7 | 11 | 12 => out.of::<usize>().give(0),
        _ => Err(NOT_SUPPORTED),
    }
}

fn give_all(
    count: u32,
    numbers: &Out<u32>,
    places: &Out<*mut c_void>,
    at: usize,
) -> Result<(), Code> {
    let state = state();
    for n in 0..count as usize {
        let (number, place) = (numbers.at(n).read()?, places.at(n).inner::<c_void>()?);
        match give(&state, &place, number, at) {
            Err(INVALID_VALUE) => give_nothing(&place, number)?,
            answer => answer?,
        }
    }
    Ok(())
}

exports! {
    fn cuPointerGetAttribute(out: Out<c_void>, number: u32, at: usize) { give(&state(), &out, number, at) }
    fn cuPointerGetAttributes(count: u32, numbers: Out<u32>, places: Out<*mut c_void>, at: usize) { give_all(count, &numbers, &places, at) }
}

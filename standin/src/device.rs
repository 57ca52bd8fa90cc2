//! Devices: numbers from 0 with a name, an identity and attributes, the same in every process, so that ranks can tell that they share one.
//! It knows nothing of contexts or memory but how large a device is.

use crate::{
    code::{Answer, Code, INVALID_DEVICE},
    driver::driver,
    export::{Out, exports},
};
use std::ffi::c_char;

/// Device memory per device, in bytes.
pub const TOTAL_BYTES: usize = 16 << 30;

/// A device's number, if there is such a device.
pub fn checked(device: i32) -> Result<i32, Code> {
    let there = (0..driver().settings.devices).contains(&device);
    there.then_some(device).ok_or(INVALID_DEVICE)
}

fn bus(device: i32) -> i32 {
    device + 1
}

/// An attribute by the driver's number; 0 for those that no test of ours asks for.
fn attribute(number: u32, device: i32) -> i32 {
    let memops = i32::from(driver().settings.memops);
    match number {
        // Threads per block, warp, multiprocessors.
        1 => 1024,
        10 => 32,
        16 => 132,
        // GPU overlap, mapped host memory, concurrent kernels.
        15 | 19 | 31 => 1,
        33 => bus(device),
        // Copy engines; unified addressing.
        40 => 2,
        41 => 1,
        // Compute capability 9.0.
        75 => 9,
        // Registered host memory: at its own address on the device; can be registered.
        91 | 99 => 1,
        // Memory pools, for cuMemAllocAsync.
        115 => 1,
        // Stream memory operations of 64 bits, and waiting for NOR.
        122 | 123 => memops,
        _ => 0,
    }
}

/// The same in every process, and another for every device.
fn identity(device: i32) -> [u8; 16] {
    let mut bytes = *b"hfr stand-in 000";
    bytes[12..].copy_from_slice(&device.to_be_bytes());
    bytes
}

exports! {
    fn cuDeviceGet(out: Out<i32>, ordinal: i32) { out.give(checked(ordinal)?) }
    fn cuDeviceGetCount(count: Out<i32>) { count.give(driver().settings.devices) }
    fn cuDeviceGetName(name: Out<c_char>, room: i32, device: i32) {
        name.give_text(&format!("HFReduce stand-in {}", checked(device)?), room)
    }
    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) { uuid.give(identity(checked(device)?)) }
    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) { uuid.give(identity(checked(device)?)) }
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        checked(device)?;
        bytes.give(TOTAL_BYTES)
    }
    fn cuDeviceGetAttribute(value: Out<i32>, number: u32, device: i32) { value.give(attribute(number, checked(device)?)) }
    fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, device: i32) {
        id.give_text(&format!("0000:{:02X}:00.0", bus(checked(device)?)), room)
    }
    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) { no_peers(&can, device, peer) }
}

fn no_peers(can: &Out<i32>, device: i32, peer: i32) -> Answer {
    checked(device)?;
    checked(peer)?;
    can.give(0)
}

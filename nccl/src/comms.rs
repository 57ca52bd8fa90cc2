//! How communicators come to be, what they are asked, and how they end. Knows no collective. Invariant: whatever NCCL makes a communicator of, here it
//! is made by joining or splitting, which all of its ranks do.

use crate::{
    calls::forward,
    config::{Config, settings, settings_of_split},
};
use interface::forward::*;
use std::ffi::c_int;

/// The version of NCCL whose calls are all here.
const VERSION: c_int = 22_803;

forward! {
    /// Makes the identity of a group.
    ncclGetUniqueId => hfrGetUniqueId(uniqueId: *mut Id);
    /// Waits for all calls and takes leave.
    ncclCommFinalize => hfrCommFinalize(comm: Handle);
    /// Ends a communicator.
    ncclCommDestroy => hfrCommDestroy(comm: Handle);
    /// Ends the group.
    ncclCommAbort => hfrCommAbort(comm: Handle);
    /// How a communicator does.
    ncclCommGetAsyncError => hfrCommGetAsyncError(comm: Handle, asyncError: *mut Code);
    /// Number of ranks.
    ncclCommCount => hfrCommCount(comm: Handle, count: *mut c_int);
    /// The device.
    ncclCommCuDevice => hfrCommCuDevice(comm: Handle, device: *mut c_int);
    /// This rank.
    ncclCommUserRank => hfrCommUserRank(comm: Handle, rank: *mut c_int);
}

/// NCCL's version that is spoken here.
///
/// # Safety
/// `version` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> Code {
    run("ncclGetVersion", || {
        if version.is_null() {
            let text = "version is NULL; pass where the result goes";
            return Err((Code::InvalidArgument, text.to_owned()));
        }
        // SAFETY: not NULL, and then good for a number, as the caller promises.
        unsafe { version.write(VERSION) };
        Ok(())
    })
}

/// Makes a communicator as `make` does, with the settings of a config.
fn with(
    what: &str,
    settings: Result<Given, (Code, String)>,
    make: impl FnOnce(*const Given) -> Code,
) -> Code {
    match settings {
        Ok(given) => make(&given),
        Err(fail) => run(what, || Err(fail)),
    }
}

/// Joins a group.
///
/// # Safety
/// As NCCL's documentation has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(
    comm: *mut Handle,
    nranks: c_int,
    commId: Id,
    rank: c_int,
) -> Code {
    // SAFETY: the caller's promise; without a config.
    unsafe { ncclCommInitRankConfig(comm, nranks, commId, rank, std::ptr::null()) }
}

/// Joins a group, with settings.
///
/// # Safety
/// As NCCL's documentation has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut Handle,
    nranks: c_int,
    commId: Id,
    rank: c_int,
    config: *const Config,
) -> Code {
    // SAFETY: the caller's promise.
    let settings = unsafe { settings(config) };
    with("ncclCommInitRankConfig", settings, |given| {
        // SAFETY: the caller's promise, and settings that are whole.
        unsafe { hfrCommInitRankConfig(comm, nranks, commId, rank, given) }
    })
}

/// Joins a group that has several identities: it meets at the first, where all ranks find it.
///
/// # Safety
/// As NCCL's documentation has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankScalable(
    newcomm: *mut Handle,
    nranks: c_int,
    myrank: c_int,
    nId: c_int,
    commIds: *const Id,
    config: *const Config,
) -> Code {
    if commIds.is_null() || nId < 1 {
        return run("ncclCommInitRankScalable", || {
            let text = format!("{nId} identities at {commIds:p}; pass one at least");
            Err((Code::InvalidArgument, text))
        });
    }
    // SAFETY: not NULL, and then good for one identity at least; all else is the caller's promise.
    unsafe { ncclCommInitRankConfig(newcomm, nranks, *commIds, myrank, config) }
}

/// Makes a group of ranks that are all in this process. Several of them may be on one device.
///
/// # Safety
/// As NCCL's documentation has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(
    comms: *mut Handle,
    ndev: c_int,
    devlist: *const c_int,
) -> Code {
    const WHAT: &str = "ncclCommInitAll";
    let ranks = usize::try_from(ndev).unwrap_or(0);
    if comms.is_null() || ranks == 0 {
        return run(WHAT, || {
            let text = format!(
                "{ndev} communicators to {comms:p}; pass room for as many as there are devices"
            );
            Err((Code::InvalidArgument, text))
        });
    }
    let mut id = Id { internal: [0; 128] };
    // SAFETY: good for an identity; the others are looked up or have no arguments.
    match unsafe { hfrGetUniqueId(&mut id) } {
        Code::Success => {}
        failure => return failure,
    }
    // SAFETY: as above.
    let begun = unsafe { hfrGroupStart() };
    if begun != Code::Success {
        return begun;
    }
    for (rank, own) in (0..ndev).zip(0..ranks) {
        // SAFETY: `comms` is good for `ndev` handles, as the caller promises.
        let joins = unsafe { ncclCommInitRank(comms.add(own), ndev, id, rank) };
        if joins != Code::Success {
            // The group has the failure, and its end gives it.
            break;
        }
        // SAFETY: not NULL, and then good for `ndev` numbers, as the caller promises; the handle has just been written.
        let (device, handle) = unsafe {
            let listed = (!devlist.is_null()).then(|| *devlist.add(own));
            (listed.unwrap_or(rank), *comms.add(own))
        };
        meant_for(handle, device);
    }
    // SAFETY: the joins have no buffers.
    unsafe { hfrGroupEnd() }
}

/// Makes groups of the ranks with the same color.
///
/// # Safety
/// As NCCL's documentation has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(
    comm: Handle,
    color: c_int,
    key: c_int,
    newcomm: *mut Handle,
    config: *const Config,
) -> Code {
    // SAFETY: the caller's promise.
    let settings = unsafe { settings_of_split(config) };
    with("ncclCommSplit", settings, |given| {
        // SAFETY: the caller's promise, and settings that are whole.
        unsafe { hfrCommSplit(comm, color, key, newcomm, given) }
    })
}

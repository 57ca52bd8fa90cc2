//! How communicators come to be: identities, joining, splitting; and the library's version. Knows no collective. Invariant: an out pointer is
//! written before anything starts, so that a handle is the caller's in any case.

use crate::{
    comm::{COMMS, Comm, Handle, Start, on},
    config::{Given, Settings},
    fail::{self, Fail, Outcome, guard, put},
    group,
    value::{Code, Id, NO_COLOR},
};
use hfr::{Communicator, Config, UniqueId};
use std::{
    ffi::{CStr, c_char, c_int},
    sync::Arc,
};

/// The version as `HFR_VERSION` counts.
fn version() -> c_int {
    let number = |text: &str| text.parse::<c_int>().unwrap_or(0);
    number(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
        + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
        + number(env!("CARGO_PKG_VERSION_PATCH"))
}

/// The library's version.
///
/// # Safety
/// `version` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGetVersion(version: *mut c_int) -> Code {
    guard("hfrGetVersion", || {
        // SAFETY: the caller's promise.
        unsafe { put(version, "version", self::version()) }?;
        Ok(Code::Success)
    })
}

/// What a result means.
///
/// # Safety
/// None needed: `result` may be any number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGetErrorString(result: c_int) -> *const c_char {
    const NONE: &CStr = c"no hfrResult_t";
    let code = Code::ALL.into_iter().find(|code| *code as c_int == result);
    code.map_or(NONE, Code::text).as_ptr()
}

/// The text of the last failure of a communicator, or of this thread.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGetLastError(comm: Handle) -> *const c_char {
    let text = fail::caught(|| {
        Ok(COMMS
            .get(comm)
            .map_or_else(|_| fail::last(), |comm| comm.last()))
    });
    fail::show(&text.unwrap_or_else(|fail| fail.text))
}

/// Makes the identity of a group that meets in this process.
///
/// # Safety
/// `uniqueId` is NULL or good for an identity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGetUniqueId(uniqueId: *mut Id) -> Code {
    guard("hfrGetUniqueId", || {
        if uniqueId.is_null() {
            return Err(Fail::argument(
                "uniqueId is NULL; pass where the identity goes",
            ));
        }
        let internal = UniqueId::create()?.to_bytes().map(|byte| byte as c_char);
        // SAFETY: the caller's promise.
        unsafe { put(uniqueId, "uniqueId", Id { internal }) }?;
        Ok(Code::Success)
    })
}

/// Joins a group, blocking.
///
/// # Safety
/// `comm` is NULL or good for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommInitRank(
    comm: *mut Handle,
    nranks: c_int,
    commId: Id,
    rank: c_int,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        join(
            "hfrCommInitRank",
            comm,
            nranks,
            commId,
            rank,
            std::ptr::null(),
        )
    }
}

/// Joins a group, with settings.
///
/// # Safety
/// `comm` is NULL or good for a handle; `config` is NULL or one that its initializer began.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommInitRankConfig(
    comm: *mut Handle,
    nranks: c_int,
    commId: Id,
    rank: c_int,
    config: *const Given,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe { join("hfrCommInitRankConfig", comm, nranks, commId, rank, config) }
}

/// # Safety
/// As `hfrCommInitRankConfig`.
unsafe fn join(
    what: &'static str,
    comm: *mut Handle,
    nranks: c_int,
    id: Id,
    rank: c_int,
    config: *const Given,
) -> Code {
    let make = |settings: &Settings| {
        let place = |number: c_int| usize::try_from(number).ok();
        let (Some(world), Some(own)) = (place(nranks), place(rank)) else {
            return Err(no_rank(nranks, rank));
        };
        if own >= world {
            return Err(no_rank(nranks, rank));
        }
        let id = UniqueId::from_bytes(&id.internal.map(|c| c as u8)).map_err(unusable)?;
        let config = settings.over(Config::of_rank(own, world)?);
        Ok(move || Communicator::join(&id, &config).map(Some))
    };
    // SAFETY: the caller's promise.
    unsafe { begin(what, comm, config, make) }
}

fn no_rank(nranks: c_int, rank: c_int) -> Fail {
    Fail::argument(format!(
        "rank {rank} in a group of {nranks}; ranks go from 0 to one less than their number"
    ))
}

/// Whatever is wrong with an identity, it is the argument that is.
fn unusable(error: hfr::Error) -> Fail {
    Fail::argument(format!(
        "commId is no identity ({error}); pass what hfrGetUniqueId gave, whole and unchanged"
    ))
}

/// Joins the group of the environment, blocking.
///
/// # Safety
/// `comm` is NULL or good for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommInitEnv(comm: *mut Handle) -> Code {
    // SAFETY: the caller's promise.
    unsafe { from_env("hfrCommInitEnv", comm, std::ptr::null()) }
}

/// Joins the group of the environment, with settings.
///
/// # Safety
/// `comm` is NULL or good for a handle; `config` is NULL or one that its initializer began.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommInitEnvConfig(comm: *mut Handle, config: *const Given) -> Code {
    // SAFETY: the caller's promise.
    unsafe { from_env("hfrCommInitEnvConfig", comm, config) }
}

/// # Safety
/// As `hfrCommInitEnvConfig`.
unsafe fn from_env(what: &'static str, comm: *mut Handle, config: *const Given) -> Code {
    let make = |settings: &Settings| {
        let config = settings.over(Config::from_env()?);
        Ok(move || Communicator::connect(&config).map(Some))
    };
    // SAFETY: the caller's promise.
    unsafe { begin(what, comm, config, make) }
}

/// Starts a communicator as `make` says, once it has checked its arguments.
///
/// # Safety
/// `comm` is NULL or good for a handle; `config` is NULL or one that its initializer began.
unsafe fn begin<M>(
    what: &'static str,
    comm: *mut Handle,
    config: *const Given,
    make: impl FnOnce(&Settings) -> Outcome<M>,
) -> Code
where
    M: FnOnce() -> Result<Option<Communicator>, hfr::Error> + Send + 'static,
{
    let code = guard(what, || {
        // SAFETY: the caller's promise.
        unsafe { put(comm, "comm", std::ptr::null_mut()) }?;
        // SAFETY: the caller's promise.
        let settings = unsafe { Settings::read(config) }?;
        let make = make(&settings)?;
        let made = Comm::starting(settings.blocking.unwrap_or(true), settings.gpu);
        // SAFETY: the caller's promise.
        unsafe {
            hand_out(comm, "comm", &made, || {
                Start::new(what, Some(made.clone()), None, Box::new(make))
            })
        }
    });
    group::noted_by_group(code)
}

/// Gives C the handle of a communicator that starts, and starts it; takes the handle back if that fails at once.
///
/// # Safety
/// `at` is NULL or good for a handle.
unsafe fn hand_out(
    at: *mut Handle,
    name: &str,
    made: &Arc<Comm>,
    start: impl FnOnce() -> Start,
) -> Outcome<Code> {
    // SAFETY: the caller's promise.
    unsafe { put(at, name, made.handle()) }?;
    group::start(start()).inspect_err(|_| {
        let _ = COMMS.remove(made.handle());
        // SAFETY: it was good for the handle just now.
        let _ = unsafe { put(at, name, std::ptr::null_mut()) };
    })
}

/// Makes groups of the ranks with the same color.
///
/// # Safety
/// `newcomm` is NULL or good for a handle; `config` is NULL or one that its initializer began.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommSplit(
    comm: Handle,
    color: c_int,
    key: c_int,
    newcomm: *mut Handle,
    config: *const Given,
) -> Code {
    const WHAT: &str = "hfrCommSplit";
    let code = on(WHAT, comm, |parent| {
        // SAFETY: the caller's promise.
        unsafe { put(newcomm, "newcomm", std::ptr::null_mut()) }?;
        // SAFETY: the caller's promise.
        let settings = unsafe { Settings::read(config) }?;
        if settings
            != (Settings {
                blocking: settings.blocking,
                ..Settings::default()
            })
        {
            return Err(Fail::argument(
                "the config of a split sets more than blocking; its timeouts and its node are the parent's",
            ));
        }
        let color = match u32::try_from(color) {
            Ok(color) => Some(color),
            Err(_) if color == NO_COLOR => None,
            Err(_) => {
                return Err(Fail::argument(format!(
                    "color {color}; use 0 or more, or HFR_SPLIT_NOCOLOR"
                )));
            }
        };
        let ready = parent.ready()?;
        let make = Box::new(move || ready.split(color, key.into()));
        let parent = Some(parent.clone());
        if color.is_none() {
            return group::start(Start::new(WHAT, None, parent, make));
        }
        let blocking = settings.blocking.or(parent.as_ref().map(|p| p.blocking));
        // A parent that has met CUDA has children that look for it, too.
        let gpu = parent.as_ref().filter(|p| p.asks()).map(|_| true);
        let made = Comm::starting(blocking.unwrap_or(true), gpu);
        // SAFETY: the caller's promise.
        unsafe {
            hand_out(newcomm, "newcomm", &made, || {
                Start::new(WHAT, Some(made.clone()), parent, make)
            })
        }
    });
    group::noted_by_group(code)
}

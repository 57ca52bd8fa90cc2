//! `ncclConfig_t`: what of NCCL's settings has a meaning here. Knows no communicator. Invariant: no byte past the size that the caller gives is read, so
//! that programs of every NCCL 2 can be served.

use interface::forward::{Code, Given, UNSET};
use std::ffi::{c_int, c_uint};

/// The head of `ncclConfig_t`, the same in every version that has one (from 2.14 on). What follows tunes NCCL's kernels, or how
/// communicators share their resources: it has no meaning here, and is not looked at.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// `NCCL_API_MAGIC`.
const MAGIC: c_uint = 0xcafe_beef;
/// `NCCL_CONFIG_UNDEF_INT`.
const UNDEFINED: c_int = c_int::MIN;
/// Bytes up to the end of `blocking`.
const HEAD: usize = 20;

/// The settings of a new communicator, whose buffers are on GPUs; NULL gives the usual ones.
///
/// # Safety
/// `at` is NULL or points to a size that is true.
pub unsafe fn settings(at: *const Config) -> Result<Given, (Code, String)> {
    Ok(Given {
        gpu: 1,
        // SAFETY: the caller's promise.
        ..unsafe { settings_of_split(at) }?
    })
}

/// The settings of a part of a communicator; the rest is its parent's.
///
/// # Safety
/// As `settings`.
pub unsafe fn settings_of_split(at: *const Config) -> Result<Given, (Code, String)> {
    if at.is_null() {
        return Ok(UNSET);
    }
    // SAFETY: every version begins with size and magic.
    let (size, magic) = unsafe { ((*at).size, (*at).magic) };
    if magic != MAGIC || size < HEAD {
        let text =
            "the config was not set up; begin with ncclConfig_t config = NCCL_CONFIG_INITIALIZER";
        return Err((Code::InvalidArgument, text.to_owned()));
    }
    // SAFETY: within the size.
    let blocking = unsafe { (*at).blocking };
    match blocking {
        UNDEFINED | 0 | 1 => Ok(Given { blocking, ..UNSET }),
        _ => Err((
            Code::InvalidArgument,
            format!("the config's blocking is {blocking}; it is 0 or 1"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Config = Config {
        size: HEAD,
        magic: MAGIC,
        version: 22_703,
        blocking: 0,
    };

    #[test]
    fn blocking_is_taken_over() {
        // SAFETY: NULL, or a whole head.
        let of = |config: &Config| unsafe { settings(config) }.expect("good");
        assert_eq!((of(&GOOD).blocking, of(&GOOD).gpu), (0, 1));
        // SAFETY: NULL is allowed.
        let usual = unsafe { settings(std::ptr::null()) }.expect("good");
        assert_eq!((usual.blocking, usual.gpu), (UNDEFINED, 1));
        // SAFETY: a whole head.
        let part = unsafe { settings_of_split(&GOOD) }.expect("good");
        assert_eq!((part.blocking, part.gpu), (0, UNDEFINED));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (config, word) in [
            (Config { magic: 0, ..GOOD }, "NCCL_CONFIG_INITIALIZER"),
            (Config { size: 16, ..GOOD }, "NCCL_CONFIG_INITIALIZER"),
            (
                Config {
                    blocking: 2,
                    ..GOOD
                },
                "blocking is 2",
            ),
        ] {
            // SAFETY: a whole head.
            let (code, text) = unsafe { settings(&config) }.err().expect(word);
            assert_eq!(code, Code::InvalidArgument);
            assert!(text.contains(word), "{text} lacks {word}");
        }
    }
}

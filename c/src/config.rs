//! `hfrConfig_t`: read, checked, and laid over the library's settings. Knows no communicator. Invariant: no byte past the size that the caller
//! gives is read, and a setting that this library does not know is refused, never ignored.

use crate::fail::{Fail, Outcome};
use hfr::Config;
use std::{
    ffi::{CStr, c_char, c_int, c_uint},
    time::Duration,
};

/// `hfrConfig_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Given {
    /// Bytes of it.
    pub size: usize,
    /// [`MAGIC`].
    pub magic: c_uint,
    /// The header's version.
    pub version: c_uint,
    /// Calls return with their results.
    pub blocking: c_int,
    /// Milliseconds without progress.
    pub timeoutMs: c_int,
    /// Milliseconds in which all ranks must have come.
    pub connectTimeoutMs: c_int,
    /// Name of the rank's node.
    pub node: *const c_char,
    /// Buffers lie on GPUs.
    pub gpu: c_int,
}

/// `HFR_CONFIG_MAGIC`.
pub const MAGIC: c_uint = 0x3172_6668;
/// `HFR_CONFIG_UNDEF_INT`.
const UNDEFINED: c_int = c_int::MIN;
/// Size of the first version, which ends with `node`: shorter ones were never made.
const FIRST: usize = 40;

/// What `HFR_CONFIG_INITIALIZER` sets.
pub const UNSET: Given = Given {
    size: size_of::<Given>(),
    magic: MAGIC,
    version: 0,
    blocking: UNDEFINED,
    timeoutMs: UNDEFINED,
    connectTimeoutMs: UNDEFINED,
    node: std::ptr::null(),
    gpu: UNDEFINED,
};

/// Settings that were given.
#[derive(Default, Debug, PartialEq)]
pub struct Settings {
    pub blocking: Option<bool>,
    pub timeout: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub node: Option<String>,
    pub gpu: Option<bool>,
}

impl Settings {
    /// Reads what C gives; NULL gives nothing.
    ///
    /// # Safety
    /// `at` is NULL or points to a size that is true.
    pub unsafe fn read(at: *const Given) -> Outcome<Settings> {
        if at.is_null() {
            return Ok(Settings::default());
        }
        // SAFETY: every version begins with size and magic.
        let (size, magic) = unsafe { ((*at).size, (*at).magic) };
        if magic != MAGIC || size < FIRST {
            return Err(Fail::argument(
                "the config was not set up; begin with hfrConfig_t config = HFR_CONFIG_INITIALIZER",
            ));
        }
        if size > size_of::<Given>() {
            // SAFETY: within the size of the first version.
            let version = unsafe { (*at).version };
            return Err(Fail::argument(format!(
                "the config has {size} bytes and this library knows {}: the program was compiled with the later hfreduce.h \
                 {}.{}.{}; install the library that belongs to it",
                size_of::<Given>(),
                version / 10_000,
                version / 100 % 100,
                version % 100
            )));
        }
        let mut given = UNSET;
        // SAFETY: `size` bytes are there, as the caller promises, and no more than a `Given` has are copied.
        unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), (&raw mut given).cast(), size) };
        Ok(Settings {
            blocking: flag("blocking", given.blocking)?,
            timeout: milliseconds("timeoutMs", given.timeoutMs)?,
            connect_timeout: milliseconds("connectTimeoutMs", given.connectTimeoutMs)?,
            // SAFETY: as the caller promises, a string that ends.
            node: unsafe { text("node", given.node) }?,
            gpu: flag("gpu", given.gpu)?,
        })
    }

    /// `config` with what was given.
    pub fn over(&self, mut config: Config) -> Config {
        config.timeout = self.timeout.unwrap_or(config.timeout);
        config.connect_timeout = self.connect_timeout.unwrap_or(config.connect_timeout);
        if let Some(node) = &self.node {
            node.clone_into(&mut config.node);
        }
        config.gpu = self.gpu.or(config.gpu);
        config
    }
}

fn flag(name: &str, value: c_int) -> Outcome<Option<bool>> {
    match value {
        UNDEFINED => Ok(None),
        0 | 1 => Ok(Some(value == 1)),
        _ => Err(Fail::argument(format!(
            "the config's {name} is {value}; it is 0 or 1"
        ))),
    }
}

fn milliseconds(name: &str, value: c_int) -> Outcome<Option<Duration>> {
    match value {
        UNDEFINED => Ok(None),
        1.. => Ok(Some(Duration::from_millis(value.unsigned_abs().into()))),
        _ => Err(Fail::argument(format!(
            "the config's {name} is {value}; it is a number of milliseconds above 0"
        ))),
    }
}

/// A string of C's; none for NULL.
///
/// # Safety
/// `at` is NULL or a string that ends.
pub unsafe fn text(name: &str, at: *const c_char) -> Outcome<Option<String>> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(at) }.to_str();
    match text {
        Ok(text) if !text.is_empty() => Ok(Some(text.to_owned())),
        Ok(_) => Err(Fail::argument(format!(
            "the {name} is empty; give it a name"
        ))),
        Err(_) => Err(Fail::argument(format!(
            "the {name} is no UTF-8; use plain text"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &Given) -> Outcome<Settings> {
        // SAFETY: a whole `Given`.
        unsafe { Settings::read(given) }
    }

    #[test]
    fn what_is_not_set_is_left_to_the_library() {
        assert_eq!(read(&UNSET), Ok(Settings::default()));
        let mut given = UNSET;
        (given.blocking, given.timeoutMs, given.node) = (0, 1500, c"left".as_ptr());
        given.gpu = 1;
        let settings = read(&given).expect("good");
        assert_eq!(settings.blocking, Some(false));
        let config = settings.over(Config::new(0, 1, "", b""));
        assert_eq!(config.timeout, Duration::from_millis(1500));
        assert_eq!(
            config.connect_timeout,
            Config::new(0, 1, "", b"").connect_timeout
        );
        assert_eq!((config.node.as_str(), config.gpu), ("left", Some(true)));
    }

    #[test]
    fn a_config_of_an_earlier_header_is_read_up_to_its_end() {
        let mut given = UNSET;
        (given.size, given.node, given.gpu) = (FIRST, c"left".as_ptr(), 77);
        let settings = read(&given).expect("good");
        assert_eq!(
            (settings.node.as_deref(), settings.gpu),
            (Some("left"), None)
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (change, word) in [
            (
                (|g| g.magic = 0) as fn(&mut Given),
                "HFR_CONFIG_INITIALIZER",
            ),
            (|g| g.size = FIRST - 8, "HFR_CONFIG_INITIALIZER"),
            (
                |g| (g.size, g.version) = (g.size + 8, 10_203),
                "later hfreduce.h 1.2.3",
            ),
            (|g| g.blocking = 2, "blocking is 2"),
            (|g| g.gpu = 3, "gpu is 3"),
            (|g| g.timeoutMs = 0, "timeoutMs is 0"),
            (|g| g.connectTimeoutMs = -1, "connectTimeoutMs is -1"),
            (|g| g.node = c"".as_ptr(), "node is empty"),
            (|g| g.node = c"\xff".as_ptr(), "UTF-8"),
        ] {
            let mut given = UNSET;
            change(&mut given);
            let fail = read(&given).expect_err(word);
            assert!(fail.text.contains(word), "{} lacks {word}", fail.text);
        }
    }
}

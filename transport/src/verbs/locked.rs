//! How much memory this process may lock, which is what registering memory with a device does. It knows the kernel's limit and the capability that lifts it,
//! no device. Invariant: an error says the limit, the need and what to do.

use rustix::process::{Resource, getrlimit};

/// CAP_IPC_LOCK, as a bit of the effective capabilities.
const MAY_LOCK: u32 = 14;
/// What helps against a limit that is too small.
pub(super) const REMEDY: &str = "raise the limit (ulimit -l unlimited, `* - memlock unlimited` in /etc/security/limits.conf, docker run --ulimit memlock=-1)";

/// Whether this process may lock `needed` bytes.
///
/// # Errors
/// The limit is smaller, and nothing lifts it.
pub fn lockable(needed: usize) -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    judge(
        getrlimit(Resource::Memlock).current,
        lifted(&status),
        needed,
    )
}

/// Whether the capability is among those of a `/proc/self/status`.
fn lifted(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    held.is_some_and(|held| held >> MAY_LOCK & 1 == 1)
}

fn judge(limit: Option<u64>, lifted: bool, needed: usize) -> Result<(), String> {
    match limit {
        Some(limit) if !lifted && limit < needed as u64 => Err(format!(
            "this process may lock {limit} bytes of memory, and RDMA will register up to {needed} bytes: {REMEDY}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_binds_who_has_no_capability() {
        let need = 256 << 20;
        let error = judge(Some(8 << 20), false, need).unwrap_err();
        for part in ["8388608 bytes", "268435456 bytes", "ulimit -l unlimited"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        for (limit, lifted) in [
            (None, false),
            (Some(8 << 20), true),
            (Some(256 << 20), false),
        ] {
            assert_eq!(judge(limit, lifted, need), Ok(()), "{limit:?}, {lifted}");
        }
        assert!(lifted(
            "Name:\thfr\nCapPrm:\t0\nCapEff:\t0000000000004000\n"
        ));
        assert!(!lifted(
            "CapEff:\t00000000000003ff\nCapBnd:\t0000000000004000\n"
        ));
    }
}

//! Which node a rank is on: ranks with equal identities share memory. The boot id tells hosts of one name apart, the host name
//! tells containers of one host apart that cannot see each other.

use super::Env;

/// What all ranks of one node have in common and no other rank has. `HFR_NODE` overrides it, so that one host can play several
/// nodes.
pub fn node_identity(env: Env) -> String {
    if let Some(claimed) = env("HFR_NODE").filter(|name| !name.is_empty()) {
        return format!("claimed {claimed}");
    }
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{host} {}", boot())
}

/// What all ranks of one kernel have in common, whatever container they are in.
pub fn machine_identity() -> String {
    let boot = boot();
    if boot.is_empty() {
        return node_identity(&|_| None);
    }
    boot
}

/// Empty where /proc is not mounted: the name alone must do then.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

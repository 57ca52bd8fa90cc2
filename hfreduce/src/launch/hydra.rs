//! Hydra, the launcher of MPICH and its kin, gives a job no id in the environment. But all ranks of a host descend from one process of it, the
//! proxy, and its number and time of birth name the job there. (The socket `PMI_FD` leads to that process, too, but MPI may be talking on it.)
//! Knows nothing of ranks. Invariant: what is found is the same for all ranks of a job on one host, and for no other job until the next boot.

use super::Env;

/// What the lookup below adds to the environment.
pub(super) const PROXY: &str = "hydra_pmi_proxy";

/// The environment that is passed in, and beside it what hydra leaves out.
pub fn with_proxy(env: Env, name: &str) -> Option<String> {
    if name == PROXY {
        // Without hydra's variables an ancestor of that name has started something else, which has started us.
        env("PMI_RANK")?;
        return proxy(&|process| std::fs::read_to_string(format!("/proc/{process}/stat")).ok());
    }
    env(name)
}

/// The nearest ancestor that is a proxy; programs are often started by a shell in between.
pub(super) fn proxy(stat: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let mut process = "self".to_owned();
    // A chain of parents cannot be longer, and might be a circle where numbers were used again while we looked.
    for _ in 0..64 {
        let line = stat(&process)?;
        let (start, rest) = line.rsplit_once(')')?;
        let (number, command) = start.split_once(" (")?;
        // After the command: state, parent; born is the 22nd field of the line.
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if command == PROXY {
            return Some(format!("{number} {}", fields.get(19)?));
        }
        process = (*fields.get(1)?).to_owned();
        if process == "0" {
            return None;
        }
    }
    None
}

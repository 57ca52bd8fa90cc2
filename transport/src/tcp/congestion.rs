//! Which congestion control the sockets of a job use. Where the system's is `bbr`, which paces a socket's packets by a timer unless the network
//! device's queue does, a node's exchange takes up to three times as long as its bytes need: what is sent in one go leaves in parts, a timer
//! each. `cubic`, the kernel's own default, sends what the window allows.

use super::{Error, error};
use socket2::Socket;

/// The algorithm that paces by timers.
const PACED: &[u8] = b"bbr";
/// Taken in its place.
const UNPACED: &[u8] = b"cubic";

/// The congestion control of all data sockets of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Congestion {
    /// The system's, but `cubic` in place of `bbr`.
    #[default]
    Auto,
    /// The system's, whatever it is.
    System,
    /// The one of this name (`net.ipv4.tcp_available_congestion_control` lists them).
    Named(String),
}

impl From<String> for Congestion {
    /// `auto`, `system` or a name.
    fn from(text: String) -> Congestion {
        match text.as_str() {
            "auto" => Congestion::Auto,
            "system" => Congestion::System,
            _ => Congestion::Named(text),
        }
    }
}

impl Congestion {
    /// Sets it on a socket that is not connected and does not listen yet: one that was paced once stays so. What a listener has, the sockets
    /// have that it accepts.
    pub(super) fn set(&self, socket: &Socket) -> Result<(), Error> {
        match self {
            Congestion::System => Ok(()),
            Congestion::Auto => {
                let paced = socket
                    .tcp_congestion()
                    .is_ok_and(|name| name.starts_with(PACED));
                if paced && let Err(e) = socket.set_tcp_congestion(UNPACED) {
                    // It works as well without, only slower.
                    tracing::debug!("no cubic in place of bbr: {e}");
                }
                Ok(())
            }
            Congestion::Named(name) => socket.set_tcp_congestion(name.as_bytes()).map_err(|e| {
                error(
                    None,
                    format!(
                        "the congestion control HFR_TCP_CONGESTION={name} cannot be set: {e}; net.ipv4.tcp_available_congestion_control lists what there is, and tcp_allowed_congestion_control what all users may set"
                    ),
                )
            }),
        }
    }
}

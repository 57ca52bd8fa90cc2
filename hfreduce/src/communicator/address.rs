//! Which of this host's addresses a rank tells the others: the one on the route to the rendezvous, or the interface the user names. It knows
//! settings, and opens no connection.

use super::connect::start;
use crate::{config::Config, error::Error};
use hfr_transport::net;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// This rank's own address among the nodes.
pub(super) fn address(config: &Config) -> Result<IpAddr, Error> {
    let selector = config.interface.as_ref().map(|(s, _)| s.as_str());
    let chosen = net::choose(rendezvous(config)?, selector);
    chosen.map_err(|e| start(e, "set HFR_SOCKET_IFNAME"))
}

fn rendezvous(config: &Config) -> Result<SocketAddr, Error> {
    let text = config.rendezvous.as_deref().unwrap_or_default();
    text.to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next())
        .ok_or_else(|| {
            start(
                format!("`{text}` is no address this host can resolve"),
                "set HFR_COMM_ID=host:port",
            )
        })
}

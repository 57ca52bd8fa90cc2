//! Which of this host's addresses its peers are told: the one on the route to the rendezvous, or the interface the user
//! names, in the syntax NCCL's users know. Host names are never looked up for this, because they so often lead to the
//! loopback. It opens no connection and sends no packet.

mod infiniband;
mod selector;

pub use infiniband::Infiniband;
pub use selector::Selector;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The variables that name an interface, the first that is set wins.
pub const VARIABLES: [&str; 2] = ["HFR_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"];

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// As `ip link` names it.
    pub name: String,
    /// One of its addresses; an interface with several is listed several times.
    pub address: IpAddr,
}

/// Why no address could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no route.
    #[error(
        "this host has no route to the rendezvous at {rendezvous}: {cause}; check the address, or name an interface \
         with HFR_SOCKET_IFNAME"
    )]
    NoRoute {
        /// The rendezvous.
        rendezvous: SocketAddr,
        /// What the operating system said.
        cause: String,
    },
    /// The selector matches nothing that could be used.
    #[error(
        "no interface matches '{selector}' with an {family} address; this host has: {candidates}"
    )]
    NoMatch {
        /// The selector as it was given.
        selector: String,
        /// The family of the rendezvous.
        family: &'static str,
        /// All interfaces with their addresses.
        candidates: String,
    },
    /// The interfaces cannot be listed.
    #[error("cannot list this host's network interfaces: {0}")]
    List(String),
}

/// The interface selector of the environment and the variable it came from; empty values count as not set.
pub fn selector_from(env: &dyn Fn(&str) -> Option<String>) -> Option<(String, &'static str)> {
    let set = |name| Some((env(name).filter(|value| !value.is_empty())?, name));
    VARIABLES.into_iter().find_map(set)
}

/// The address of this host that its peers should use.
///
/// # Errors
/// No route to the rendezvous; a selector that matches nothing, with the candidates.
pub fn choose(rendezvous: SocketAddr, selector: Option<&str>) -> Result<IpAddr, Error> {
    match selector {
        None => route(rendezvous),
        Some(text) => pick(text, &interfaces()?, rendezvous),
    }
}

/// This host's interfaces that have addresses, in the kernel's order.
///
/// # Errors
/// The operating system refuses.
pub fn interfaces() -> Result<Vec<Interface>, Error> {
    let found = if_addrs::get_if_addrs().map_err(|error| Error::List(error.to_string()))?;
    let entry = |found: if_addrs::Interface| Interface {
        address: found.ip(),
        name: found.name,
    };
    Ok(found.into_iter().map(entry).collect())
}

/// Connecting a datagram socket sends nothing, but makes the kernel choose a source address.
fn route(rendezvous: SocketAddr) -> Result<IpAddr, Error> {
    let any: IpAddr = match rendezvous {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(rendezvous)?;
        socket.local_addr()
    });
    match local {
        Ok(local) => Ok(local.ip()),
        Err(error) => Err(Error::NoRoute {
            rendezvous,
            cause: error.to_string(),
        }),
    }
}

/// The first address in the given order that the selector allows, in the family of the rendezvous.
fn pick(text: &str, interfaces: &[Interface], rendezvous: SocketAddr) -> Result<IpAddr, Error> {
    let selector = Selector::parse(text);
    let usable = |interface: &&Interface| {
        let address = interface.address;
        // Who only excludes others does not ask for the loopback, though the kernel lists it first.
        let strayed =
            selector.excludes() && address.is_loopback() && !rendezvous.ip().is_loopback();
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        selector.allows(&interface.name)
            && address.is_ipv4() == rendezvous.is_ipv4()
            && !strayed
            && !link_local
    };
    let candidate = |interface: &Interface| format!("{} ({})", interface.name, interface.address);
    interfaces
        .iter()
        .find(usable)
        .map(|found| found.address)
        .ok_or_else(|| Error::NoMatch {
            selector: text.to_owned(),
            family: if rendezvous.is_ipv4() { "IPv4" } else { "IPv6" },
            candidates: interfaces
                .iter()
                .map(candidate)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<Interface> {
        let list = [
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("eth0", "10.1.0.5"),
            ("eth1", "10.2.0.5"),
            ("ib0", "10.3.0.5"),
            ("lo", "::1"),
            ("eth0", "fe80::1"),
            ("eth0", "2001:db8::5"),
        ];
        let entry = |(name, address): (&str, &str)| Interface {
            name: name.into(),
            address: address.parse().unwrap(),
        };
        list.into_iter().map(entry).collect()
    }

    fn picked(selector: &str, rendezvous: &str) -> String {
        match pick(selector, &host(), rendezvous.parse().unwrap()) {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_first_match_in_the_kernels_order_is_taken() {
        let cases = [
            ("eth", "10.1.0.5"),
            ("=eth1", "10.2.0.5"),
            ("ib,eth", "10.1.0.5"),
            ("lo", "127.0.0.1"),
            ("^docker,lo", "10.1.0.5"),
            ("^docker", "10.1.0.5"),
            ("^=eth0,docker0", "10.2.0.5"),
            ("^docker,eth", "10.3.0.5"),
        ];
        for (selector, address) in cases {
            assert_eq!(picked(selector, "10.9.0.1:5"), address, "{selector}");
        }
        assert_eq!(picked("^docker", "127.0.0.1:5"), "127.0.0.1");
        assert_eq!(picked("eth", "[2001:db8::1]:5"), "2001:db8::5");
    }

    #[test]
    fn an_unknown_name_lists_the_candidates() {
        for selector in ["enp3s0", "=eth", "^lo,docker,eth,ib"] {
            let text = picked(selector, "10.9.0.1:5");
            let start =
                format!("no interface matches '{selector}' with an IPv4 address; this host has: ");
            assert!(text.starts_with(&start), "{text}");
            assert!(
                text.contains("docker0 (172.17.0.1), eth0 (10.1.0.5), eth1 (10.2.0.5)"),
                "{text}"
            );
        }
        assert!(picked("ib", "[2001:db8::1]:5").contains("IPv6"));
    }

    #[test]
    fn our_variable_wins_over_the_one_people_know() {
        let env = |ours: &'static str, known: &'static str| {
            move |name: &str| match name {
                "HFR_SOCKET_IFNAME" => Some(ours.to_owned()),
                "NCCL_SOCKET_IFNAME" => Some(known.to_owned()),
                _ => None,
            }
        };
        assert_eq!(
            selector_from(&env("a", "b")),
            Some(("a".into(), "HFR_SOCKET_IFNAME"))
        );
        assert_eq!(
            selector_from(&env("", "b")),
            Some(("b".into(), "NCCL_SOCKET_IFNAME"))
        );
        assert_eq!(selector_from(&|_| None), None);
    }
}

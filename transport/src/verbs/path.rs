//! How two ports reach each other: by LID inside an InfiniBand subnet, by a pair of GIDs on RoCE. The lower rank of a pair decides for both,
//! because routes may look different from the two ends. It knows addresses and asks the kernel for routes; it opens no connection.

use super::device::{Device, Gid, GidKind};
use crate::net::Infiniband;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Addresses one card lists; a port with many VLANs has more, of which the first are told.
const MOST: usize = 12;

/// What a rank tells a peer of its end of a lane.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Card {
    pub device: String,
    pub port: u8,
    pub ethernet: bool,
    pub lid: u16,
    pub mtu: u32,
    pub pkey: u16,
    pub gids: Vec<Gid>,
    pub pair: u32,
    pub packet: u32,
    /// Notices that may be under way to the sender of this card; both ends must have the same.
    pub credits: u32,
}

/// What the lower rank decides: places in the two lists of GIDs, its own first; nothing where LIDs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Choice {
    pub gids: Option<(usize, usize)>,
}

/// The rows of the GID table that may be used, as they are now.
pub(super) fn candidates(device: &Device, settings: &Infiniband) -> Result<Vec<Gid>, String> {
    let mut gids = device.gids();
    if let Some(index) = settings.gid_index {
        gids.retain(|gid| gid.index == index);
        if gids.is_empty() {
            let (name, port) = (&device.name, device.port);
            return Err(format!(
                "HFR_IB_GID_INDEX={index}: that row of the GID table of {name}:{port} is empty"
            ));
        }
    }
    // What can be routed first, so that it is in the list whatever else is.
    gids.sort_by_key(|gid| (gid.is_link_local(), std::cmp::Reverse(gid.kind), gid.index));
    gids.truncate(MOST);
    Ok(gids)
}

/// How `ours` reaches `theirs`, as the lower rank sees it.
pub(super) fn choose(ours: &Card, theirs: &Card) -> Result<Choice, String> {
    let (near, far) = (
        format!("{}:{}", ours.device, ours.port),
        format!("{}:{}", theirs.device, theirs.port),
    );
    if ours.ethernet != theirs.ethernet {
        return Err(format!(
            "one of {near} here and {far} there is InfiniBand and the other Ethernet; name devices of one network with HFR_IB_HCA"
        ));
    }
    let (a, b) = (ours.pkey, theirs.pkey);
    if a & 0x7FFF != b & 0x7FFF || (a | b) & 0x8000 == 0 {
        return Err(format!(
            "{near} here is in partition {a:#06x} and {far} there in {b:#06x}, which may not talk; choose another row with HFR_IB_PKEY"
        ));
    }
    if ours.credits != theirs.credits {
        return Err(format!(
            "{} notices may be under way here and {} there; start all ranks from one build",
            ours.credits, theirs.credits
        ));
    }
    if !ours.ethernet && ours.lid != 0 && theirs.lid != 0 {
        return Ok(Choice { gids: None });
    }
    best(&ours.gids, &theirs.gids, &route).map(|gids| Choice { gids: Some(gids) }).ok_or_else(|| {
        format!("no address of {near} here fits one of {far} there: {} and {}; give the ports addresses of one network", list(&ours.gids), list(&theirs.gids))
    })
}

fn list(gids: &[Gid]) -> String {
    let name = |gid: &Gid| format!("{:?} {}", gid.kind, gid.ip());
    gids.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The pair that can be routed, RoCE v2 before v1, and among equals the one whose addresses agree longest.
fn best(
    ours: &[Gid],
    theirs: &[Gid],
    route: &dyn Fn(IpAddr) -> Option<IpAddr>,
) -> Option<(usize, usize)> {
    let mut found = None;
    for (there, far) in theirs.iter().enumerate() {
        let source = (far.kind == GidKind::RoceV2)
            .then(|| route(far.ip()))
            .flatten();
        for (here, near) in ours.iter().enumerate() {
            let fits = near.kind == far.kind
                && near.ip().is_ipv4() == far.ip().is_ipv4()
                && near.is_link_local() == far.is_link_local();
            if !fits {
                continue;
            }
            let same = u128::from_be_bytes(near.raw) ^ u128::from_be_bytes(far.raw);
            let worth = (
                near.kind,
                !near.is_link_local(),
                source == Some(near.ip()),
                same.leading_zeros(),
            );
            if found.is_none_or(|(best, _)| worth > best) {
                found = Some((worth, (here, there)));
            }
        }
    }
    found.map(|(_, pair)| pair)
}

/// The address this host would use to reach another; nothing is sent.
fn route(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 4791)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn gid(index: u8, kind: GidKind, text: &str) -> Gid {
        let ip: IpAddr = text.parse().unwrap();
        let raw = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Gid { index, kind, raw }
    }

    fn card(gids: Vec<Gid>) -> Card {
        Card {
            device: "rxe0".into(),
            port: 1,
            ethernet: true,
            lid: 0,
            mtu: 5,
            pkey: 0xFFFF,
            gids,
            pair: 17,
            packet: 4,
            credits: 256,
        }
    }

    #[test]
    fn the_address_with_the_route_wins_then_the_nearest_and_never_another_kind() {
        use GidKind::{RoceV1, RoceV2};
        let ours = [
            gid(0, RoceV2, "fe80::1"),
            gid(1, RoceV1, "10.1.0.5"),
            gid(2, RoceV2, "10.1.0.5"),
            gid(3, RoceV2, "10.2.0.5"),
            gid(4, RoceV2, "2001:db8::5"),
        ];
        let theirs = [
            gid(0, RoceV2, "fe80::2"),
            gid(1, RoceV1, "10.2.0.9"),
            gid(5, RoceV2, "10.2.0.9"),
        ];
        assert_eq!(best(&ours, &theirs, &|_| None), Some((3, 2)));
        let by_the_other = |_| Some("10.1.0.5".parse().unwrap());
        assert_eq!(best(&ours, &theirs, &by_the_other), Some((2, 2)));
        assert_eq!(best(&ours[..2], &theirs, &|_| None), Some((0, 0)));
        assert_eq!(best(&ours[1..2], &theirs[..1], &|_| None), None);
    }

    #[test]
    fn networks_partitions_and_limits_must_be_the_same() {
        let one = card(vec![gid(1, GidKind::RoceV2, "10.1.0.5")]);
        let other = card(vec![gid(1, GidKind::RoceV2, "10.1.0.6")]);
        assert_eq!(choose(&one, &other).unwrap().gids, Some((0, 0)));
        let ib = Card {
            ethernet: false,
            lid: 7,
            ..other.clone()
        };
        assert!(choose(&one, &ib).unwrap_err().contains("HFR_IB_HCA"));
        let near = Card {
            ethernet: false,
            lid: 3,
            ..one.clone()
        };
        assert_eq!(choose(&near, &ib).unwrap().gids, None);
        for pkey in [0x8001, 0x7FFF] {
            let far = Card {
                pkey,
                ..other.clone()
            };
            let near = Card {
                pkey: 0x7FFF,
                ..one.clone()
            };
            assert!(
                choose(&near, &far).unwrap_err().contains("HFR_IB_PKEY"),
                "{pkey:#x}"
            );
        }
        let v6 = Ipv6Addr::LOCALHOST.to_string();
        let error = choose(&one, &card(vec![gid(0, GidKind::RoceV1, &v6)])).unwrap_err();
        assert!(error.contains("RoceV2 10.1.0.5 and RoceV1 ::1"), "{error}");
    }
}

//! Choosing an address on the host the tests run on: whatever its network is, it has a loopback.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use hfr_transport::net::{Error, choose, interfaces};

#[test]
fn the_route_to_the_loopback_is_the_loopback() {
    let rendezvous = "127.0.0.1:29500".parse().unwrap();
    assert_eq!(
        choose(rendezvous, None),
        Ok(IpAddr::V4(Ipv4Addr::LOCALHOST))
    );
    assert_eq!(
        choose("127.0.0.1:0".parse().unwrap(), None),
        Ok(IpAddr::V4(Ipv4Addr::LOCALHOST))
    );
}

#[test]
fn every_listed_address_is_ones_own() {
    let all = interfaces().unwrap();
    assert!(all.iter().any(|interface| interface.address.is_loopback()));
    for interface in all.iter().filter(|interface| interface.address.is_ipv4()) {
        UdpSocket::bind((interface.address, 0)).unwrap();
        let rendezvous = (interface.address, 29500).into();
        let exact = format!("={}", interface.name);
        let chosen = choose(rendezvous, Some(&exact)).unwrap();
        assert!(
            all.iter()
                .any(|other| other.name == interface.name && other.address == chosen)
        );
    }
}

#[test]
fn a_name_this_host_does_not_have_is_an_error_with_candidates() {
    let error = choose("127.0.0.1:1".parse().unwrap(), Some("=no such interface")).unwrap_err();
    assert!(matches!(error, Error::NoMatch { .. }));
    assert!(error.to_string().contains("lo (127.0.0.1)"), "{error}");
}

//! The handshake that every connection begins with: both sides prove that they know the job's secret, by HMAC-SHA256 over a
//! nonce of each side, so the secret itself never travels and an old conversation cannot be replayed. It knows no socket:
//! only what the fixed-size messages are.
//!
//! client: magic, service, nonce; server: magic, nonce; client: proof; server: accepted or not, proof.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// First bytes of both sides; the digit is the protocol's version.
pub(crate) const MAGIC: [u8; 4] = *b"HFR1";
/// Length of a nonce and of a proof, in bytes.
pub(crate) const SIZE: usize = 32;
/// Magic, service, nonce.
pub(crate) const HELLO: usize = 4 + 1 + SIZE;
/// Magic, nonce.
pub(crate) const CHALLENGE: usize = 4 + SIZE;
/// Accepted or not, proof.
pub(crate) const WELCOME: usize = 1 + SIZE;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Store = 1,
    Control = 2,
}

impl Service {
    pub(crate) fn from_byte(byte: u8) -> Option<Service> {
        match byte {
            1 => Some(Service::Store),
            2 => Some(Service::Control),
            _ => None,
        }
    }
}

/// Who speaks: a proof of one side is never a proof of the other.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Client,
    Server,
}

/// One conversation: both nonces and what it is for.
pub(crate) struct Conversation {
    pub(crate) service: Service,
    pub(crate) client: [u8; SIZE],
    pub(crate) server: [u8; SIZE],
}

impl Conversation {
    fn mac(&self, cookie: &[u8], side: Side) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(cookie).expect("HMAC takes keys of any length");
        mac.update(match side {
            Side::Client => b"hfreduce client",
            Side::Server => b"hfreduce server",
        });
        mac.update(&[self.service as u8]);
        mac.update(&self.client);
        mac.update(&self.server);
        mac
    }

    /// What `side` shows to prove that it knows the cookie.
    pub(crate) fn proof(&self, cookie: &[u8], side: Side) -> [u8; SIZE] {
        self.mac(cookie, side).finalize().into_bytes().into()
    }

    /// Whether `proof` is that of `side`; takes the same time for every wrong proof.
    pub(crate) fn verify(&self, cookie: &[u8], side: Side, proof: &[u8]) -> bool {
        self.mac(cookie, side).verify_slice(proof).is_ok()
    }
}

/// Fresh random bytes.
pub(crate) fn nonce() -> std::io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    let mut done = 0;
    while done < SIZE {
        done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_cookie_side_service_and_nonces_only() {
        let (client, server) = (nonce().unwrap(), nonce().unwrap());
        assert_ne!(client, server);
        let talk = |service, client, server| Conversation {
            service,
            client,
            server,
        };
        let here = talk(Service::Store, client, server);
        let proof = here.proof(b"secret", Side::Client);
        assert!(here.verify(b"secret", Side::Client, &proof));
        assert!(!here.verify(b"secreT", Side::Client, &proof));
        assert!(!here.verify(b"secret", Side::Server, &proof));
        assert!(!here.verify(b"secret", Side::Client, &proof[1..]));
        let others = [
            talk(Service::Control, client, server),
            talk(Service::Store, server, client),
            talk(Service::Store, client, nonce().unwrap()),
        ];
        for other in others {
            assert!(!other.verify(b"secret", Side::Client, &proof));
        }
    }
}

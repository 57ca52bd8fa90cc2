//! The handshake's messages: both ends prove that they know the job's token without sending it. It knows bytes and HMACs, no
//! sockets and no time. Invariant: a proof is bound to both ranks, both nonces and the side that gives it, so that none can be
//! replayed, mirrored or used between other ranks.
//!
//! Dialer: `MAGIC from to nonce`. Accepter: `nonce proof`. Dialer: `proof`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// First bytes of a connection; the digit is the version of handshake and frames.
pub(super) const MAGIC: [u8; 8] = *b"HFRTCP1\n";
/// Length of the dialer's first message in bytes.
pub(super) const HELLO: usize = 8 + 8 + 8 + 32;
/// Length of the accepter's message in bytes.
pub(super) const REPLY: usize = 32 + 32;
/// Length of a proof in bytes.
pub(super) const PROOF: usize = 32;

/// Which end of the connection gives a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Accepter,
}

/// What both ends know of a handshake before the proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Global rank of the dialer.
    pub dialer: u64,
    /// Global rank of the accepter.
    pub accepter: u64,
    /// The dialer's nonce.
    pub dialer_nonce: [u8; 32],
    /// The accepter's nonce.
    pub accepter_nonce: [u8; 32],
}

impl Terms {
    /// The dialer's first message.
    pub fn hello(&self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.dialer.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.accepter.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.dialer_nonce);
        bytes
    }

    /// The terms a dialer's first message asks for, or nothing when it is none; `accepter_nonce` is ours.
    pub fn from_hello(bytes: &[u8; HELLO], accepter_nonce: [u8; 32]) -> Option<Terms> {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        (bytes[..8] == MAGIC).then(|| Terms {
            dialer: long(8),
            accepter: long(16),
            dialer_nonce: std::array::from_fn(|i| bytes[24 + i]),
            accepter_nonce,
        })
    }

    /// The accepter's message.
    pub fn reply(&self, token: &[u8; 32]) -> [u8; REPLY] {
        let mut bytes = [0; REPLY];
        bytes[..32].copy_from_slice(&self.accepter_nonce);
        bytes[32..].copy_from_slice(&self.proof(Side::Accepter, token));
        bytes
    }

    /// The proof that `side` knows `token`.
    pub fn proof(&self, side: Side, token: &[u8; 32]) -> [u8; PROOF] {
        self.mac(side, token).finalize().into_bytes().into()
    }

    /// Whether `proof` shows that `side` knows `token`; takes the same time whatever is wrong.
    pub fn verify(&self, side: Side, token: &[u8; 32], proof: &[u8]) -> bool {
        self.mac(side, token).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: Side, token: &[u8; 32]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("an HMAC key of any length");
        mac.update(&MAGIC);
        mac.update(match side {
            Side::Dialer => b"dialer..",
            Side::Accepter => b"accepter",
        });
        mac.update(&self.dialer.to_le_bytes());
        mac.update(&self.accepter.to_le_bytes());
        mac.update(&self.dialer_nonce);
        mac.update(&self.accepter_nonce);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms {
            dialer: 3,
            accepter: 9,
            dialer_nonce: std::array::from_fn(|i| i as u8),
            accepter_nonce: std::array::from_fn(|i| 200 - i as u8),
        }
    }

    #[test]
    fn hello_carries_the_terms() {
        let terms = terms();
        assert_eq!(
            Terms::from_hello(&terms.hello(), terms.accepter_nonce),
            Some(terms)
        );
        assert_eq!(
            Terms::from_hello(&[b'G'; HELLO], terms.accepter_nonce),
            None
        );
    }

    #[test]
    fn a_proof_holds_for_its_own_terms_side_and_token_only() {
        let (terms, token, other) = (terms(), [7; 32], [8; 32]);
        let proof = terms.proof(Side::Dialer, &token);
        assert!(terms.verify(Side::Dialer, &token, &proof));
        assert!(!terms.verify(Side::Accepter, &token, &proof));
        assert!(!terms.verify(Side::Dialer, &other, &proof));
        assert!(!terms.verify(Side::Dialer, &token, &proof[..31]));
        for changed in [
            Terms { dialer: 4, ..terms },
            Terms {
                accepter: 10,
                ..terms
            },
            Terms {
                dialer_nonce: [1; 32],
                ..terms
            },
            Terms {
                accepter_nonce: [1; 32],
                ..terms
            },
        ] {
            assert!(!changed.verify(Side::Dialer, &token, &proof), "{changed:?}");
        }
    }
}

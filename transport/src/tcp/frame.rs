//! The frame: what goes before the bytes of a put on a TCP stream. It knows the layout of the header and nothing of sockets.
//! Invariant: a header is `BYTES` long, little endian, and begins with a mark, so that a stream out of step is noticed.

/// Length of an encoded header in bytes.
pub(super) const BYTES: usize = 24;

/// First word of every header.
const MARK: u32 = 0x5055_5431;

/// Where the bytes that follow belong, and what to say when they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Target: byte offset in the receiver's segment.
    pub to: u64,
    /// Bytes that follow.
    pub len: u64,
    /// The notice of the put.
    pub notice: u32,
}

impl Header {
    /// The header as it goes over the wire.
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..4].copy_from_slice(&MARK.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.notice.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.to.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, or nothing when they are not a header.
    pub fn decode(bytes: &[u8; BYTES]) -> Option<Header> {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        (word(0) == MARK).then(|| Header {
            to: long(8),
            len: long(16),
            notice: word(4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire_and_a_stray_word_does_not() {
        let header = Header {
            to: 0x0102_0304_0506_0708,
            len: u64::MAX - 1,
            notice: 0xDEAD_BEEF,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        let mut wrong = bytes;
        wrong[2] ^= 1;
        assert_eq!(Header::decode(&wrong), None);
    }
}

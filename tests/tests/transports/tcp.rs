//! What TCP promises beyond the contract.

use hfr_transport::shm::Segment;
use hfr_transport::tcp::Tcp;
use std::ops::Range;
use std::sync::Arc;

/// The token of the job that all these tests are.
pub const TOKEN: [u8; 32] = *b"a job's token, 32 bytes of them.";

/// A rank that listens on the loopback interface.
pub fn end(
    rank: usize,
    len: usize,
    writable: Range<usize>,
    token: [u8; 32],
) -> (Tcp, Arc<Segment>) {
    let segment = Arc::new(Segment::heap(len));
    let tcp = Tcp::bind(
        rank,
        segment.clone(),
        writable,
        [127, 0, 0, 1].into(),
        token,
    )
    .unwrap();
    (tcp, segment)
}

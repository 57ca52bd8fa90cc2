//! Frames: a 32-bit little-endian length, then that many bytes; and the few field types inside them. It knows no message.
//! A frame longer than the reader's limit is an error before a byte of it is stored.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The bytes are not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(_: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, "malformed message")
    }
}

/// Builds the body of a frame.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(tag: u8) -> Writer {
        Writer(vec![tag])
    }

    pub(crate) fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Writer {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn size(self, value: usize) -> Writer {
        self.u64(value as u64)
    }

    pub(crate) fn bytes(mut self, value: &[u8]) -> Writer {
        self = self.size(value.len());
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, value: &str) -> Writer {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn list<T>(self, items: &[T], each: impl Fn(Writer, &T) -> Writer) -> Writer {
        items.iter().fold(self.size(items.len()), each)
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the body of a frame apart.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let raw = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_le_bytes(raw))
    }

    pub(crate) fn size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.u64()?).map_err(|_| Malformed)
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let count = self.size()?;
        Ok(self.take(count)?.to_vec())
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(crate) fn list<T>(
        &mut self,
        each: impl Fn(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.size()?;
        // Every item takes at least one byte, so a count beyond the bytes that are left is a lie.
        if count > self.0.len() {
            return Err(Malformed);
        }
        (0..count).map(|_| each(self)).collect()
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// Length and body as they go over the wire.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(4 + body.len());
    whole.extend_from_slice(&(body.len() as u32).to_le_bytes());
    whole.extend_from_slice(body);
    whole
}

fn too_long(length: usize, limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message of {length} bytes is over the limit of {limit}"),
    )
}

/// Reads one frame.
pub(crate) async fn read_frame(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Vec<u8>> {
    let length = from.read_u32_le().await? as usize;
    if length > limit {
        return Err(too_long(length, limit));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(body)
}

/// Fills `into` from a blocking socket, or fails with `TimedOut` at the deadline.
pub(crate) fn read_by(stream: &TcpStream, into: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut stream = stream;
    let mut done = 0;
    while done < into.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut into[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(error) if may_repeat(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends `bytes` over a blocking socket, or fails with `TimedOut` at the deadline.
pub(crate) fn write_by(stream: &TcpStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut stream = stream;
    let mut done = 0;
    while done < bytes.len() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(&bytes[done..]) {
            Ok(count) => done += count,
            Err(error) if may_repeat(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads one frame from a blocking socket.
pub(crate) fn read_frame_by(
    stream: &TcpStream,
    limit: usize,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    read_by(stream, &mut length, deadline)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(too_long(length, limit));
    }
    let mut body = vec![0; length];
    read_by(stream, &mut body, deadline)?;
    Ok(body)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    }
    // The kernel counts socket timeouts in microseconds and takes zero for "for ever".
    Ok(left.max(Duration::from_millis(1)))
}

/// A socket timeout shows as `WouldBlock`; the deadline decides, not the socket.
fn may_repeat(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_and_every_cut_is_noticed() {
        let body = Writer::new(7)
            .u8(9)
            .u64(1 << 40)
            .text("gruß")
            .list(&[3usize, 5], |w, &item| w.size(item))
            .end();
        let parse = |bytes: &[u8]| -> Result<(u8, u8, u64, String, Vec<usize>), Malformed> {
            let mut reader = Reader(bytes);
            let all = (
                reader.u8()?,
                reader.u8()?,
                reader.u64()?,
                reader.text()?,
                reader.list(Reader::size)?,
            );
            reader.end()?;
            Ok(all)
        };
        assert_eq!(parse(&body), Ok((7, 9, 1 << 40, "gruß".into(), vec![3, 5])));
        for cut in 0..body.len() {
            assert_eq!(parse(&body[..cut]), Err(Malformed), "cut at {cut}");
        }
    }

    #[test]
    fn a_lying_count_allocates_nothing() {
        let body = Writer::new(0).size(usize::MAX).end();
        assert_eq!(Reader(&body[1..]).list(Reader::u64), Err(Malformed));
        assert_eq!(Reader(&body[1..]).bytes(), Err(Malformed));
    }
}

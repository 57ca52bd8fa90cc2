//! Where a segment's pages come from: a memfd, or a nameless file in /dev/shm where memfd is refused. Nothing created here
//! has a name that outlives the call, so a SIGKILL at any moment leaves nothing behind (but see `unlinked`).

use super::{Error, headroom};
use rustix::fs::{self, FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Where the pages of a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// An anonymous file of the kernel, not bound by the size of any mount. What `Segment::create` takes where it can.
    Memfd,
    /// A file in /dev/shm without a name, bound by the size of that mount.
    DevShm,
}

const DEV_SHM: &str = "/dev/shm";

/// fallocate on shared memory that a signal interrupts gives back all it has done: a step must be short enough to end
/// between two signals of a profiler.
const STEP: u64 = 64 << 20;

/// Makes a file of `len` bytes (all holes), close-on-exec.
pub(super) fn file(hint: &str, len: u64, backing: Backing) -> Result<OwnedFd, Error> {
    match backing {
        Backing::Memfd => memfd(hint, len),
        Backing::DevShm => dev_shm(hint, len),
    }
}

fn memfd(hint: &str, len: u64) -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels from 6.3 on want to be told that the file is not for execution; older ones do not know the flag.
    let fd = match fs::memfd_create(hint, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => fs::memfd_create(hint, flags),
        other => other,
    }
    .map_err(|errno| Error::call("memfd_create", errno))?;
    resize(&fd, len)?;
    // A file that a peer shrinks under a mapping is a SIGBUS in everyone who touches it.
    fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|errno| Error::call("sealing the memfd", errno))?;
    Ok(fd)
}

fn dev_shm(hint: &str, len: u64) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
    let fd = match fs::open(DEV_SHM, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => unlinked(hint)?,
        other => other.map_err(|errno| no_dev_shm(errno, "opening a nameless file in"))?,
    };
    resize(&fd, len)?;
    Ok(fd)
}

/// Where O_TMPFILE is not known: a name, taken away at once. Between the two calls a SIGKILL leaves an empty file.
fn unlinked(hint: &str) -> Result<OwnedFd, Error> {
    let path = format!("{DEV_SHM}/{hint}-{}", super::pass::random_hex()?);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    let fd = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| no_dev_shm(errno, "creating a file in"))?;
    fs::unlink(&path).map_err(|errno| Error::call(format_args!("unlinking {path}"), errno))?;
    Ok(fd)
}

fn no_dev_shm(errno: Errno, what: &str) -> Error {
    Error::new(
        format!("{what} {DEV_SHM} failed: {errno}"),
        "mount a writable tmpfs there (mount -t tmpfs tmpfs /dev/shm), or allow the system call memfd_create, which needs no mount",
    )
}

fn resize(fd: &OwnedFd, len: u64) -> Result<(), Error> {
    fs::ftruncate(fd, len)
        .map_err(|errno| Error::call(format_args!("sizing a segment to {len} bytes"), errno))
}

/// Whether `bytes` more can be had, or why not.
pub(super) fn room(fd: BorrowedFd<'_>, bytes: u64, backing: Backing) -> Result<(), Error> {
    if backing == Backing::DevShm {
        mount_has(fd, bytes)?;
    }
    memory_has(bytes, headroom::now())
}

/// Makes sure that `offset..offset + bytes` has pages, or says why it cannot have them. There should be `room`.
pub(super) fn fill(
    fd: BorrowedFd<'_>,
    offset: u64,
    bytes: u64,
    backing: Backing,
) -> Result<(), Error> {
    let end = offset + bytes;
    let mut at = offset;
    while at < end {
        let step = STEP.min(end - at);
        match fs::fallocate(fd, FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(refused(errno, bytes, backing)),
        }
    }
    Ok(())
}

/// Gives the pages of `offset..offset + bytes` back; the bytes read as zero afterwards.
pub(super) fn release(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<(), Error> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match fs::fallocate(fd, mode, offset, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::call(
                    format_args!("giving back {bytes} bytes of shared memory"),
                    errno,
                ));
            }
        }
    }
}

fn refused(errno: Errno, bytes: u64, backing: Backing) -> Error {
    let cause = format!("reserving {bytes} bytes of shared memory failed: {errno}");
    match (errno, backing) {
        (Errno::NOSPC, Backing::DevShm) => Error::new(cause, bigger_mount(bytes)),
        (Errno::NOSPC | Errno::NOMEM, _) => Error::new(
            cause,
            "free memory on this node, raise the job's memory limit, or lower the window or the chunk size",
        ),
        (Errno::FBIG, _) => Error::new(cause, "raise the file size limit (ulimit -f unlimited)"),
        _ => Error::new(cause, ""),
    }
}

fn bigger_mount(bytes: u64) -> String {
    let gib = bytes.div_ceil(1 << 30) + 1;
    format!(
        "make {DEV_SHM} bigger (docker run --shm-size={gib}g ..., or mount -o remount,size={gib}G {DEV_SHM}), \
         or allow the system call memfd_create, which is not bound by that mount"
    )
}

fn mount_has(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), Error> {
    let mount = fs::fstatvfs(fd)
        .map_err(|errno| Error::call("asking for the free space of /dev/shm", errno))?;
    let available = mount.f_bavail.saturating_mul(mount.f_frsize);
    // A tmpfs without a size limit says 0 blocks in all.
    if mount.f_blocks == 0 || bytes <= available {
        return Ok(());
    }
    let total = mount.f_blocks.saturating_mul(mount.f_frsize);
    Err(Error::new(
        format!("{DEV_SHM} is too small: needed {bytes} bytes, available {available} bytes"),
        bigger_mount(bytes + (total - available)),
    ))
}

fn memory_has(bytes: u64, headroom: Option<headroom::Headroom>) -> Result<(), Error> {
    let Some(headroom) = headroom else {
        return Ok(());
    };
    // Page tables, socket buffers and the other ranks need something too: the last 1/32 is not ours to take.
    let available = headroom.bytes - headroom.bytes / 32;
    if bytes <= available {
        return Ok(());
    }
    Err(Error::new(
        format!(
            "not enough memory: needed {bytes} bytes, available {available} bytes within {}",
            headroom.limit
        ),
        headroom.remedy,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_headroom_is_an_error_with_numbers_and_remedy() {
        let headroom = headroom::Headroom {
            bytes: 3200,
            limit: "the test".into(),
            remedy: "do this",
        };
        assert_eq!(memory_has(3100, Some(headroom.clone())), Ok(()));
        let error = memory_has(3101, Some(headroom)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not enough memory: needed 3101 bytes, available 3100 bytes within the test; do this"
        );
        assert_eq!(memory_has(u64::MAX, None), Ok(()));
    }

    #[test]
    fn without_tmpfile_the_name_is_gone_at_once() {
        let hint = format!("hfr-unlinked-{}", std::process::id());
        let fd = unlinked(&hint).unwrap();
        assert_eq!(fs::fstat(&fd).unwrap().st_nlink, 0);
        let left = std::fs::read_dir(DEV_SHM)
            .unwrap()
            .any(|e| e.unwrap().file_name().to_string_lossy().starts_with(&hint));
        assert!(!left);
    }
}

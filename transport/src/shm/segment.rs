//! The segment: one block of memory that all ranks of a node map. It hands out addresses and nothing else; what lies
//! where is the caller's layout. Its length is virtual: pages cost memory from when they are reserved or first touched.
//! Invariant: `base` stays mapped, at one address in this process, as long as the `Segment` lives.

use super::backing::{self, Backing};
use super::error::Error;
use super::huge::{self, HUGE, SMALL};
use super::numa::{self, Placement};
use rustix::fs::{self, FileType};
use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

/// So many bytes are made huge pages at a time: the system hears no signal meanwhile, and gives up at the first page that it does not get.
const ENLARGED: usize = 64 << 20;

/// One node's block of shared memory. Offsets are bytes from its start and are the same in every process.
#[derive(Debug)]
pub struct Segment {
    base: NonNull<u8>,
    len: usize,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Heap,
    Mapped { fd: OwnedFd, backing: Backing },
}

// SAFETY: the segment only hands out raw addresses; whoever dereferences them answers for the ordering.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A segment on this process's heap, `len` bytes, zeroed: for the simulator and for tests under an interpreter.
    pub fn heap(len: usize) -> Segment {
        let layout = Layout::from_size_align(len.max(1), 4096).expect("segment length");
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout));
        Segment {
            base,
            len,
            memory: Memory::Heap,
        }
    }

    /// A segment of `len` bytes, zeroed, that other processes can map: a memfd, or where the system refuses that (a seccomp
    /// filter, an old kernel) a nameless file in /dev/shm. `len` is virtual and may be far more than there is memory:
    /// `reserve` what will be used. `name_hint` shows up in /proc/PID/maps and nowhere else.
    pub fn create(name_hint: &str, len: usize) -> Result<Segment, Error> {
        let memfd = match Segment::create_in(name_hint, len, Backing::Memfd) {
            Ok(segment) => return Ok(segment),
            Err(error) => error,
        };
        Segment::create_in(name_hint, len, Backing::DevShm).map_err(|shm| {
            let cause = format!(
                "no shared memory for a segment: {}, and then {}",
                memfd.cause, shm.cause
            );
            let remedy = if shm.remedy.is_empty() {
                memfd.remedy
            } else {
                shm.remedy
            };
            Error::new(cause, remedy)
        })
    }

    /// As `create`, with the pages from where the caller says and from nowhere else.
    pub fn create_in(name_hint: &str, len: usize, backing: Backing) -> Result<Segment, Error> {
        let fd = backing::file(name_hint, len as u64, backing)?;
        Segment::map(fd, len, backing)
    }

    /// Maps a segment that another process (or this one) created and whose `fd` it handed out.
    pub fn attach(fd: OwnedFd) -> Result<Segment, Error> {
        let stat = fs::fstat(&fd)
            .map_err(|errno| Error::call("asking for the length of a segment", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(
                "the file descriptor that was passed is no segment",
                "",
            ));
        }
        // Only a memfd knows seals; a file of a mount answers with an error.
        let backing = match fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(fs::SealFlags::SHRINK) => Backing::Memfd,
            _ => Backing::DevShm,
        };
        let len = usize::try_from(stat.st_size)
            .map_err(|_| Error::new("the segment is longer than addresses reach", ""))?;
        Segment::map(fd, len, backing)
    }

    fn map(fd: OwnedFd, len: usize, backing: Backing) -> Result<Segment, Error> {
        if len == 0 {
            return Err(Error::new("a segment of 0 bytes cannot be mapped", ""));
        }
        let base = aligned(&fd, len).map_err(|errno| {
            Error::new(
                format!("mapping a segment of {len} bytes failed: {errno}"),
                "raise the limit of virtual memory (ulimit -v unlimited)",
            )
        })?;
        // A core dump with every slot of a node in it helps nobody. A kernel that does not know the advice is no harm.
        // SAFETY: the range was mapped just now, and the advice changes no bytes.
        let _ = unsafe { mm::madvise(base, len, Advice::LinuxDontDump) };
        let base = NonNull::new(base.cast::<u8>()).expect("mmap never returns address 0 unasked");
        Ok(Segment {
            base,
            len,
            memory: Memory::Mapped { fd, backing },
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the segment holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file descriptor to hand to other processes; `None` for a heap segment, which cannot be passed.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.memory {
            Memory::Heap => None,
            Memory::Mapped { fd, .. } => Some(fd.as_fd()),
        }
    }

    /// Where the pages come from; `None` for a heap segment.
    pub fn backing(&self) -> Option<Backing> {
        match &self.memory {
            Memory::Heap => None,
            Memory::Mapped { backing, .. } => Some(*backing),
        }
    }

    /// Makes sure that `offset..offset + bytes` has memory, so that touching it later can neither raise SIGBUS nor wake the
    /// out-of-memory killer. What lies there already stays as it is, but counts as needed once more: reserve a range once.
    /// Whole multiples of `HUGE` in it become huge pages where the system has them to give, which is also the fastest way to reserve
    /// them. After an error a part of the range may have been reserved.
    ///
    /// # Panics
    /// When the range does not lie inside the segment.
    pub fn reserve(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        self.at(offset, bytes);
        match &self.memory {
            Memory::Mapped { fd, backing } if bytes > 0 => {
                let fd = fd.as_fd();
                backing::room(fd, bytes as u64, *backing)?;
                self.enlarge(fd, *backing, huge::within(offset..offset + bytes))?;
                backing::fill(fd, offset as u64, bytes as u64, *backing)
            }
            _ => Ok(()),
        }
    }

    /// Has the system make huge pages of a range of whole ones, where it can.
    fn enlarge(
        &self,
        fd: BorrowedFd<'_>,
        backing: Backing,
        pages: Range<usize>,
    ) -> Result<(), Error> {
        let mut refused = None;
        for start in pages.clone().step_by(ENLARGED) {
            let part = start..pages.end.min(start + ENLARGED);
            for at in part.clone().step_by(HUGE) {
                backing::fill(fd, huge::first_page(at) as u64, SMALL as u64, backing)?;
            }
            // SAFETY: the range lies in the mapping, which starts on a multiple of `HUGE`.
            let done = unsafe { huge::collapse(self.at(part.start, part.len()), part.len()) };
            refused = refused.or(done.err());
        }
        if let Some(why) = refused {
            tracing::debug!(%why, bytes = pages.len(), "some pages stay small");
        }
        Ok(())
    }

    /// Has the pages that lie wholly in `offset..offset + bytes` come from where `placement` says, in every process, if they are not there yet.
    /// `false`: the system does not do that here, and pages lie where they are touched first.
    ///
    /// # Panics
    /// When the range does not lie inside the segment.
    pub fn place(&self, offset: usize, bytes: usize, placement: Placement) -> bool {
        let at = self.at(offset, bytes);
        match &self.memory {
            // SAFETY: the range is mapped, and ours.
            Memory::Mapped { .. } => match unsafe { numa::place(at, bytes, placement) } {
                Ok(()) => true,
                Err(why) => {
                    tracing::debug!(%why, ?placement, "pages stay where they are touched first");
                    false
                }
            },
            Memory::Heap => false,
        }
    }

    /// Gives the memory of `offset..offset + bytes` back to the system. Its bytes read as zero from then on, in every
    /// process; nobody may be using them. Pages that lie only partly in the range are zeroed in that part and kept.
    ///
    /// # Panics
    /// When the range does not lie inside the segment.
    pub fn release(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        let at = self.at(offset, bytes);
        match &self.memory {
            Memory::Mapped { fd, .. } if bytes > 0 => {
                backing::release(fd.as_fd(), offset as u64, bytes as u64)
            }
            Memory::Mapped { .. } => Ok(()),
            Memory::Heap => {
                // SAFETY: the range lies inside the allocation, and the caller says that nobody uses it.
                unsafe { ptr::write_bytes(at, 0, bytes) };
                Ok(())
            }
        }
    }

    /// The address of `offset`.
    ///
    /// # Panics
    /// When `offset..offset + bytes` does not lie inside the segment.
    #[inline]
    pub fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(
            offset <= self.len && bytes <= self.len - offset,
            "{bytes} bytes at offset {offset} do not lie inside a segment of {} bytes",
            self.len
        );
        // SAFETY: the sum lies inside the allocation, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

/// Maps the file where huge pages can lie, on a multiple of `HUGE`.
fn aligned(fd: &OwnedFd, len: usize) -> rustix::io::Result<*mut c_void> {
    let room = len.checked_add(HUGE).ok_or(Errno::NOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing. Nobody can touch it.
    let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags)? };
    let head = start.align_offset(HUGE);
    let tail = (head + len).next_multiple_of(rustix::param::page_size());
    let (access, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
    );
    // SAFETY: the file takes the place of a part of the room that was mapped just now; what is left of that goes.
    unsafe {
        let base = start.byte_add(head);
        let mapped = mm::mmap(base, len, access, flags, fd, 0);
        if mapped.is_err() {
            let _ = mm::munmap(start, room);
            return mapped;
        }
        if head > 0 {
            mm::munmap(start, head)?;
        }
        if room > tail {
            mm::munmap(start.byte_add(tail), room - tail)?;
        }
        Ok(base)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        match self.memory {
            Memory::Heap => {
                let layout =
                    Layout::from_size_align(self.len.max(1), 4096).expect("segment length");
                // SAFETY: allocated in `heap` with this very layout, freed once.
                unsafe { dealloc(self.base.as_ptr(), layout) }
            }
            Memory::Mapped { .. } => {
                // SAFETY: mapped in `map` with this length, unmapped once; no address outlives its segment by contract of `at`.
                let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.len) };
            }
        }
    }
}

//! The ranks of one node give each other file descriptors: each brings its own, local rank 0 gathers them and hands everyone
//! the whole. It does not know what they are for. Either every rank has the same table, or the call fails on it with a reason.

use super::Error;
use super::door::{self, Door, Knock};
use super::packet::{Kind, MAX_BODY, Token};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// Descriptors that one rank may bring.
const MAX_FDS: usize = 64;

/// Gives `mine` to all local ranks and returns what each has brought, by local rank and in its order. All ranks of a node
/// call this with the same `address` (made by `unique_address` and carried by the store), `token` and `local_size`; local rank
/// 0 may bring more than the others, such as the node's segment. Works between processes and between threads of one.
pub fn exchange(
    address: &str,
    token: &Token,
    local_rank: usize,
    local_size: usize,
    mine: Vec<OwnedFd>,
    deadline: Instant,
) -> Result<Vec<Vec<OwnedFd>>, Error> {
    if local_rank >= local_size || local_size * 4 > MAX_BODY || mine.len() > MAX_FDS {
        return Err(Error::new(
            format!(
                "local rank {local_rank} of {local_size} cannot exchange {} file descriptors",
                mine.len()
            ),
            format!(
                "the local rank lies below the local size, which is at most {}; at most {MAX_FDS} each",
                MAX_BODY / 4
            ),
        ));
    }
    if local_rank == 0 {
        lead(Door::open(address, *token)?, local_size, mine, deadline)
    } else {
        join(address, token, [local_rank, local_size], mine, deadline)
    }
}

struct Guest {
    socket: OwnedFd,
    nonce: [u8; 32],
    fds: Vec<OwnedFd>,
}

fn lead(
    mut door: Door,
    size: usize,
    mine: Vec<OwnedFd>,
    deadline: Instant,
) -> Result<Vec<Vec<OwnedFd>>, Error> {
    let mut guests: Vec<Option<Guest>> = (1..size).map(|_| None).collect();
    while guests.iter().any(Option::is_none) {
        let (socket, message) = match door.next(None, Some(deadline))? {
            Knock::Guest(socket, message) => (socket, message),
            Knock::Stopped | Knock::TooLate => return Err(give_up(&door, &guests)),
        };
        match seat(&message.body, size, message.kind) {
            // A rank that comes twice has lost its first connection: the later one counts.
            Ok(rank) => {
                guests[rank - 1] = Some(Guest {
                    socket,
                    nonce: message.nonce,
                    fds: message.fds,
                })
            }
            Err(why) => {
                // One who cannot take the answer has gone, which is all that is wanted of them.
                let _ = door.answer(&socket, message.nonce, Kind::Refusal, why.as_bytes(), &[]);
            }
        }
    }
    let guests: Vec<Guest> = guests.into_iter().flatten().collect();
    let counts = [mine.len()]
        .into_iter()
        .chain(guests.iter().map(|guest| guest.fds.len()));
    let body: Vec<u8> = counts
        .flat_map(|count| (count as u32).to_le_bytes())
        .collect();
    let all: Vec<BorrowedFd<'_>> = mine
        .iter()
        .chain(guests.iter().flat_map(|guest| &guest.fds))
        .map(AsFd::as_fd)
        .collect();
    for (index, guest) in guests.iter().enumerate() {
        door.answer(&guest.socket, guest.nonce, Kind::Fds, &body, &all)
            .map_err(|error| {
                Error::new(
                    format!("local rank {}: {}", index + 1, error.cause),
                    error.remedy,
                )
            })?;
    }
    drop(all);
    Ok([mine]
        .into_iter()
        .chain(guests.into_iter().map(|guest| guest.fds))
        .collect())
}

/// The local rank that asks, when it fits into this meeting.
fn seat(body: &[u8], size: usize, kind: Kind) -> Result<usize, String> {
    let (Kind::Join, Ok(body)) = (kind, <[u8; 8]>::try_from(body)) else {
        return Err(
            "the process at this address gathers file descriptors and hands out none".into(),
        );
    };
    let word = |at: usize| {
        u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]) as usize
    };
    let (rank, theirs) = (word(0), word(4));
    if theirs != size || rank == 0 || rank >= size {
        return Err(format!(
            "local rank {rank} of {theirs} came to a node of {size} local ranks"
        ));
    }
    Ok(rank)
}

fn give_up(door: &Door, guests: &[Option<Guest>]) -> Error {
    let missing: Vec<String> = guests
        .iter()
        .enumerate()
        .filter(|(_, guest)| guest.is_none())
        .map(|(i, _)| (i + 1).to_string())
        .collect();
    let cause = format!(
        "local ranks {} did not bring their file descriptors in time",
        missing.join(", ")
    );
    for guest in guests.iter().flatten() {
        // Those who came deserve the reason; one who has gone meanwhile does not need it.
        let _ = door.answer(
            &guest.socket,
            guest.nonce,
            Kind::Refusal,
            cause.as_bytes(),
            &[],
        );
    }
    Error::new(
        cause,
        "check that they are still running, on this host and in the same network namespace",
    )
}

fn join(
    address: &str,
    token: &Token,
    [rank, size]: [usize; 2],
    mine: Vec<OwnedFd>,
    deadline: Instant,
) -> Result<Vec<Vec<OwnedFd>>, Error> {
    let body: Vec<u8> = [rank, size]
        .iter()
        .flat_map(|word| (*word as u32).to_le_bytes())
        .collect();
    let fds: Vec<BorrowedFd<'_>> = mine.iter().map(AsFd::as_fd).collect();
    let answer = door::ask(address, token, Kind::Join, &body, &fds, deadline)?;
    let counts: Vec<usize> = answer
        .body
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize)
        .collect();
    if counts.len() != size
        || counts.iter().sum::<usize>() != answer.fds.len()
        || counts[rank] != mine.len()
    {
        return Err(Error::new(
            "local rank 0 answered with a table of another shape",
            "start all ranks from one build",
        ));
    }
    let mut passed = answer.fds.into_iter();
    let mut table: Vec<Vec<OwnedFd>> = counts
        .iter()
        .map(|count| passed.by_ref().take(*count).collect())
        .collect();
    table[rank] = mine;
    Ok(table)
}

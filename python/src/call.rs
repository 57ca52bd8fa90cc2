//! From a collective's name and its buffers to the library's call: which sides a rank needs, how the counts go together, what is in place.
//! Knows neither numpy nor torch, and starts nothing. Invariant: a call that is built fits the library's contract: sides of equal types and
//! fitting counts, writable outputs, and either in place exactly or without overlap.

use crate::{
    buffer::{self, Keep, Place, UNKNOWN, View, resolve},
    dtype::Type,
    error::invalid,
    names::{Name, Share},
};
use hfreduce::{Block, Blocks, Collective, DType, RawCall, ReduceOp, device::Stream};
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyList, PyTuple},
};
use std::sync::Arc;

/// What was asked for, but for the buffers.
#[derive(Clone, Copy)]
pub struct Order {
    pub rank: usize,
    pub size: usize,
    pub name: Name,
    pub op: ReduceOp,
    pub root: i64,
    /// What the call is ordered on; `None` where the host makes it.
    pub stream: Option<Stream>,
}

/// One side's memory.
enum Side {
    Nothing,
    Whole(View),
    Pieces(Vec<View>),
}

impl Side {
    fn views(&self) -> &[View] {
        match self {
            Side::Nothing => &[],
            Side::Whole(view) => std::slice::from_ref(view),
            Side::Pieces(views) => views,
        }
    }
}

impl Order {
    fn refuse(&self, py: Python<'_>, why: &str) -> PyErr {
        invalid(py, self.rank, self.name.text(), why)
    }

    /// Makes the call. `keep` gets what must live as long as the call, besides the arguments themselves.
    ///
    /// # Errors
    /// What does not fit, in words; nothing is started.
    pub fn build(
        &self,
        py: Python<'_>,
        input: Option<&Bound<'_, PyAny>>,
        output: Option<&Bound<'_, PyAny>>,
        keep: &mut Keep,
    ) -> PyResult<RawCall> {
        let rooted = self.name.rooted();
        if rooted && !(0..self.size as i64).contains(&self.root) {
            let why = format!("root {} in a group of {} ranks", self.root, self.size);
            return Err(self.refuse(py, &why));
        }
        let collective = self.name.collective(self.root as u32);
        if self.name == Name::Barrier {
            if input.is_some() || output.is_some() {
                return Err(self.refuse(py, "takes no buffer"));
            }
            return Ok(RawCall {
                collective,
                dtype: DType::U8,
                op: ReduceOp::Sum,
                count: 0,
                input: std::ptr::null(),
                output: std::ptr::null_mut(),
                blocks: None,
            });
        }
        let (needs, gives) = self.name.shares(rooted && self.rank as i64 == self.root);
        // One buffer for a call whose sides are alike is both.
        let alike = matches!(self.name, Name::AllReduce | Name::Broadcast | Name::Reduce);
        let (input, output) = match (input, output) {
            (Some(one), None) | (None, Some(one)) if alike => (Some(one), Some(one)),
            both => both,
        };
        let from = self.side(py, needs, input, "input", keep)?;
        let into = match (&from, input, output) {
            (Side::Whole(view), Some(i), Some(o)) if gives == Share::One && i.is(o) => {
                Side::Whole(*view)
            }
            _ => self.side(py, gives, output, "output", keep)?,
        };
        self.fit(py, collective, (needs, from), (gives, into))
    }

    fn side(
        &self,
        py: Python<'_>,
        share: Share,
        object: Option<&Bound<'_, PyAny>>,
        role: &str,
        keep: &mut Keep,
    ) -> PyResult<Side> {
        let Some(object) = object.filter(|_| share != Share::None) else {
            return Ok(Side::Nothing);
        };
        let mut place = Place {
            rank: self.rank,
            operation: self.name.text(),
            role,
            index: None,
            maker: buffer::Maker::of(self.stream),
        };
        let pieces = match object.cast::<PyList>() {
            Ok(list) => Some(list.iter().collect::<Vec<_>>()),
            Err(_) => object.cast::<PyTuple>().ok().map(|t| t.iter().collect()),
        };
        let Some(pieces) = pieces else {
            return Ok(Side::Whole(resolve(object, place, keep)?));
        };
        if share == Share::One {
            return Err(place.refuse_type("is a list; pass one buffer"));
        }
        if pieces.len() != self.size {
            let why = format!("is a list of {} for {} ranks", pieces.len(), self.size);
            return Err(place.refuse(py, &why));
        }
        let mut views = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.into_iter().enumerate() {
            place.index = Some(index);
            views.push(resolve(&piece, place, keep)?);
            keep.push(piece.unbind());
        }
        Ok(Side::Pieces(views))
    }

    fn fit(
        &self,
        py: Python<'_>,
        collective: Collective,
        (needs, from): (Share, Side),
        (gives, into): (Share, Side),
    ) -> PyResult<RawCall> {
        let of = self.one_type(py, &from, &into)?;
        self.one_device(py, &from, &into)?;
        if !into.views().iter().all(|view| view.writable) {
            return Err(self.refuse(py, "the output is read-only; pass a writable copy"));
        }
        let count = self.count(py, (needs, &from), (gives, &into))?;
        let (dtype, scale, op) = if self.name.reduces() {
            of.reduced(self.op).map_err(|why| self.refuse(py, &why))?
        } else {
            let (dtype, scale) = of.moved();
            (dtype, scale, ReduceOp::Sum)
        };
        let mut call = RawCall {
            collective,
            dtype,
            op,
            count: count * scale,
            input: std::ptr::null(),
            output: std::ptr::null_mut(),
            blocks: None,
        };
        let share = count * of.size();
        self.place(py, &mut call, share, (needs, &from), (gives, &into))?;
        if matches!(from, Side::Pieces(_)) || matches!(into, Side::Pieces(_)) {
            call.blocks = Some(Arc::new(Blocks {
                input: blocks(&from, scale),
                output: blocks(&into, scale),
            }));
        }
        Ok(call)
    }

    /// Sets the addresses of sides in one piece; a side that is missing and may be is in place.
    fn place(
        &self,
        py: Python<'_>,
        call: &mut RawCall,
        share: usize,
        (needs, from): (Share, &Side),
        (gives, into): (Share, &Side),
    ) -> PyResult<()> {
        // What lies in place is this rank's share of the larger side.
        let own = |whole: Share, other: Share| match (whole, other) {
            (Share::All, Share::One) => self.rank * share,
            _ => 0,
        };
        let missing = |side: &str| {
            let why = format!("the {side} is missing; this rank has one");
            Err(self.refuse(py, &why))
        };
        match (from, into) {
            (Side::Nothing, Side::Whole(view)) if needs == Share::One && gives == Share::All => {
                call.output = view.at;
                call.input = view.at.wrapping_add(own(gives, needs));
            }
            (Side::Whole(view), Side::Nothing) if gives == Share::One && needs == Share::All => {
                if !view.writable {
                    return Err(self.refuse(py, "the buffer is read-only; pass a writable copy"));
                }
                call.input = view.at;
                call.output = view.at.wrapping_add(own(needs, gives));
            }
            _ => {
                if needs != Share::None && matches!(from, Side::Nothing) {
                    return missing("input");
                }
                if gives != Share::None && matches!(into, Side::Nothing) {
                    return missing("output");
                }
                if let Side::Whole(view) = from {
                    call.input = view.at;
                }
                if let Side::Whole(view) = into {
                    call.output = view.at;
                }
                if let (Side::Whole(input), Side::Whole(output)) = (from, into) {
                    let inner = output.at.wrapping_add(own(gives, needs));
                    let outer = input.at.wrapping_add(own(needs, gives));
                    let in_place = inner == outer && (needs, gives) != (Share::All, Share::All);
                    if !in_place && overlap(input, output) {
                        return Err(self.refuse(
                            py,
                            "input and output overlap; pass one buffer twice where the operation works in place, or two that are apart",
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn one_type(&self, py: Python<'_>, from: &Side, into: &Side) -> PyResult<Type> {
        let mut all = from.views().iter().chain(into.views());
        let Some(first) = all.next() else {
            return Err(self.refuse(py, "no buffer was passed"));
        };
        match all.find(|view| view.of != first.of) {
            None => Ok(first.of),
            Some(other) => Err(PyTypeError::new_err(format!(
                "rank {}: {}: the buffers of a call have one type of elements; these have {} and {}",
                self.rank,
                self.name.text(),
                first.of,
                other.of
            ))),
        }
    }

    /// What the objects themselves tell; the library asks the driver for the rest.
    fn one_device(&self, py: Python<'_>, from: &Side, into: &Side) -> PyResult<()> {
        if self.stream.is_none() {
            return Ok(());
        }
        let all = from.views().iter().chain(into.views());
        let mut devices = all.filter_map(|view| view.device.filter(|d| *d != UNKNOWN));
        let Some(first) = devices.next() else {
            return Ok(());
        };
        match devices.find(|device| *device != first) {
            None => Ok(()),
            Some(other) => Err(self.refuse(
                py,
                &format!(
                    "one buffer is on device {first}, another on device {other}; keep all buffers of a rank on one device"
                ),
            )),
        }
    }

    /// Elements of one share, after a look at both sides.
    fn count(
        &self,
        py: Python<'_>,
        (needs, from): (Share, &Side),
        (gives, into): (Share, &Side),
    ) -> PyResult<usize> {
        let uneven = match self.name {
            // Every pair has its own count.
            Name::AllToAllV => {
                if matches!((from, into), (Side::Pieces(_), Side::Pieces(_))) {
                    return Ok(0);
                }
                return Err(self.refuse(py, "takes a list of buffers for each side, one per rank"));
            }
            Name::AllGather | Name::ReduceScatter => true,
            _ => false,
        };
        let a = self.share_of(py, needs, from, uneven, "input")?;
        let b = self.share_of(py, gives, into, uneven, "output")?;
        match (a, b) {
            (Some(a), Some(b)) if a != b => {
                let whose = |share| {
                    if share == Share::All {
                        "for each rank"
                    } else {
                        "in all"
                    }
                };
                Err(self.refuse(
                    py,
                    &format!(
                        "the input has {a} elements {} and the output {b} {}",
                        whose(needs),
                        whose(gives)
                    ),
                ))
            }
            (a, b) => Ok(a.or(b).unwrap_or(0)),
        }
    }

    fn share_of(
        &self,
        py: Python<'_>,
        share: Share,
        side: &Side,
        uneven: bool,
        role: &str,
    ) -> PyResult<Option<usize>> {
        match side {
            Side::Nothing => Ok(None),
            Side::Whole(view) if share == Share::All => {
                if view.count.is_multiple_of(self.size) {
                    return Ok(Some(view.count / self.size));
                }
                Err(self.refuse(
                    py,
                    &format!(
                        "the {role} has {} elements, which is no multiple of the {} ranks",
                        view.count, self.size
                    ),
                ))
            }
            Side::Whole(view) => Ok(Some(view.count)),
            Side::Pieces(views) => {
                let own = views[self.rank].count;
                if uneven || views.iter().all(|v| v.count == own) {
                    return Ok(Some(own));
                }
                let why = format!(
                    "the buffers of the {role} have different numbers of elements; only all_to_all_v, all_gather and reduce_scatter take those"
                );
                Err(self.refuse(py, &why))
            }
        }
    }
}

fn blocks(side: &Side, scale: usize) -> Vec<Block> {
    match side {
        Side::Pieces(views) => views
            .iter()
            .map(|v| Block {
                at: v.at,
                count: v.count * scale,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn overlap(a: &View, b: &View) -> bool {
    let (x, y) = (a.at.addr(), b.at.addr());
    a.count > 0 && b.count > 0 && x < y + b.bytes() && y < x + a.bytes()
}

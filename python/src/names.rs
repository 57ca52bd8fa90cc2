//! The words of a call: collectives and operations by name, and which share of a call's data a rank has. Knows no buffer. Invariant: the
//! names are the library's own; a string that was interned is found by its identity, which is what constants in programs are.

use crate::error::invalid;
use hfreduce::{Collective, ReduceOp};
use pyo3::{prelude::*, sync::PyOnceLock, types::PyString};

/// Which collective, before its root is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
    Reduce,
    Barrier,
    AllToAll,
    AllToAllV,
    Gather,
    Scatter,
}

/// How much a rank has on one side of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Nothing: what is passed is not looked at.
    None,
    /// `count` elements.
    One,
    /// `count` elements for each rank.
    All,
}

impl Name {
    pub const ALL: [Name; 10] = [
        Name::AllReduce,
        Name::ReduceScatter,
        Name::AllGather,
        Name::Broadcast,
        Name::Reduce,
        Name::Barrier,
        Name::AllToAll,
        Name::AllToAllV,
        Name::Gather,
        Name::Scatter,
    ];

    pub const fn text(self) -> &'static str {
        match self {
            Name::AllReduce => "all_reduce",
            Name::ReduceScatter => "reduce_scatter",
            Name::AllGather => "all_gather",
            Name::Broadcast => "broadcast",
            Name::Reduce => "reduce",
            Name::Barrier => "barrier",
            Name::AllToAll => "all_to_all",
            Name::AllToAllV => "all_to_all_v",
            Name::Gather => "gather",
            Name::Scatter => "scatter",
        }
    }

    pub fn collective(self, root: u32) -> Collective {
        match self {
            Name::AllReduce => Collective::AllReduce,
            Name::ReduceScatter => Collective::ReduceScatter,
            Name::AllGather => Collective::AllGather,
            Name::Broadcast => Collective::Broadcast { root },
            Name::Reduce => Collective::Reduce { root },
            Name::Barrier => Collective::Barrier,
            Name::AllToAll => Collective::AllToAll,
            Name::AllToAllV => Collective::AllToAllV,
            Name::Gather => Collective::Gather { root },
            Name::Scatter => Collective::Scatter { root },
        }
    }

    pub fn reduces(self) -> bool {
        matches!(self, Name::AllReduce | Name::ReduceScatter | Name::Reduce)
    }

    pub fn rooted(self) -> bool {
        matches!(
            self,
            Name::Broadcast | Name::Reduce | Name::Gather | Name::Scatter
        )
    }

    /// Shares of input and output, at the root and elsewhere.
    pub fn shares(self, root: bool) -> (Share, Share) {
        use Share::{All, None, One};
        match self {
            Name::AllReduce => (One, One),
            Name::ReduceScatter => (All, One),
            Name::AllGather => (One, All),
            Name::Broadcast => (if root { One } else { None }, One),
            Name::Reduce => (One, if root { One } else { None }),
            Name::Barrier => (None, None),
            Name::AllToAll | Name::AllToAllV => (All, All),
            Name::Gather => (One, if root { All } else { None }),
            Name::Scatter => (if root { All } else { None }, One),
        }
    }
}

/// One of the interned strings that an argument most often is, by identity; `None` for any other.
fn interned<T: Copy>(text: &Bound<'_, PyString>, table: &[(Py<PyString>, T)]) -> Option<T> {
    table
        .iter()
        .find(|(known, _)| known.as_ptr() == text.as_ptr())
        .map(|(_, found)| *found)
}

fn table<T: Copy>(py: Python<'_>, of: &[(&str, T)]) -> Vec<(Py<PyString>, T)> {
    of.iter()
        .map(|(text, found)| (PyString::intern(py, text).unbind(), *found))
        .collect()
}

/// The collective of this name.
pub fn name(rank: usize, text: &Bound<'_, PyString>) -> PyResult<Name> {
    static NAMES: PyOnceLock<Vec<(Py<PyString>, Name)>> = PyOnceLock::new();
    let py = text.py();
    let names = NAMES.get_or_init(py, || table(py, &Name::ALL.map(|n| (n.text(), n))));
    if let Some(found) = interned(text, names) {
        return Ok(found);
    }
    let text = text.to_cow()?;
    Name::ALL
        .into_iter()
        .find(|n| n.text() == text)
        .ok_or_else(|| {
            let all = Name::ALL.map(Name::text).join(" ");
            let why = format!("no collective is called so; there are {all}");
            invalid(py, rank, &text, &why)
        })
}

/// The operation of this name and factor; a factor makes a sum one whose inputs are multiplied by it first.
pub fn operation(
    rank: usize,
    name: Name,
    text: Option<&Bound<'_, PyString>>,
    factor: Option<f64>,
) -> PyResult<ReduceOp> {
    static OPS: PyOnceLock<Vec<(Py<PyString>, ReduceOp)>> = PyOnceLock::new();
    let Some(text) = text else {
        return Ok(factor.map_or(ReduceOp::Sum, ReduceOp::PremulSum));
    };
    let py = text.py();
    let ops = OPS.get_or_init(py, || table(py, &ReduceOp::ALL.map(|op| (op.name(), op))));
    let found = match interned(text, ops) {
        Some(found) => Some(found),
        None => {
            let text = text.to_cow()?;
            ReduceOp::ALL.into_iter().find(|op| op.name() == text)
        }
    };
    let refuse = |why: &str| Err(invalid(py, rank, name.text(), why));
    match (found, factor) {
        (Some(ReduceOp::Sum | ReduceOp::PremulSum(_)), Some(factor)) => {
            Ok(ReduceOp::PremulSum(factor))
        }
        (Some(ReduceOp::PremulSum(_)), None) => refuse("mulsum needs a factor"),
        (Some(_), Some(_)) => refuse("only sum and mulsum take a factor"),
        (Some(op), None) => Ok(op),
        (None, _) => {
            let all = ReduceOp::ALL.map(|op| op.name()).join(" ");
            refuse(&format!(
                "{} is no operation; there are {all}",
                text.repr()?
            ))
        }
    }
}

//! A set of CPU numbers, written as the kernel writes it: `0-3,8`. It knows no machine. Invariant: no number is above what a kernel
//! can have, so that a mistyped range is an error and not a full memory.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// Kernels have fewer CPUs than this.
const MOST: usize = 1 << 16;

/// CPU numbers, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(BTreeSet<usize>);

impl Cpus {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Those that are in both.
    pub fn both(&self, other: &Cpus) -> Cpus {
        self.0.intersection(&other.0).copied().collect()
    }

    /// Whether all of them are in `other`.
    pub fn within(&self, other: &Cpus) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The lowest number.
    pub fn first(&self) -> Option<usize> {
        self.0.first().copied()
    }
}

impl FromIterator<usize> for Cpus {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Cpus {
        Cpus(numbers.into_iter().collect())
    }
}

impl<'a> FromIterator<&'a Cpus> for Cpus {
    fn from_iter<I: IntoIterator<Item = &'a Cpus>>(sets: I) -> Cpus {
        sets.into_iter().flat_map(Cpus::iter).collect()
    }
}

impl fmt::Display for Cpus {
    /// `-` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for n in self.iter() {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => runs.push((n, n)),
            }
        }
        for (i, (first, last)) in runs.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Cpus, String> {
        if matches!(text, "" | "-") {
            return Ok(Cpus::default());
        }
        let mut all = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<usize>(), last.parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < MOST => all.extend(first..=last),
                _ => return Err(format!("'{text}' is no list of CPUs such as 0-3,8")),
            }
        }
        Ok(Cpus(all))
    }
}

#[cfg(test)]
mod tests {
    use super::Cpus;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for text in ["0", "0-3,8", "1,3,5-6", "-", "0-65535"] {
            assert_eq!(text.parse::<Cpus>().expect(text).to_string(), text);
        }
        assert_eq!("3,1,2".parse::<Cpus>().expect("a list").to_string(), "1-3");
        for wrong in ["x", "3-1", "1,,2", "0-65536", "-1", "1-"] {
            let error = wrong.parse::<Cpus>().expect_err(wrong);
            assert!(error.contains(wrong), "{error}");
        }
    }
}

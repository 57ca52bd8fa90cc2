//! Where the kernel's files are read from: `/`, or a folder with `sys` and `proc` below it, such as a container's view of its host or a tree
//! recorded elsewhere. It knows no meaning of any file. Invariant: nothing is written, and what is not there is no error.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The folder that stands for `/`.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The files below `folder`.
    pub fn new(folder: &Path) -> Root {
        Root(folder.to_owned())
    }

    /// Whether this is the running system's own.
    pub fn is_own(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// A file's text without the white space around it; `None` where it cannot be read or is empty. The kernel refuses to read some files
    /// while a device is off.
    pub fn text(&self, path: &str) -> Option<String> {
        let text = fs::read(self.0.join(path)).ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A file's first word as a number.
    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.split_whitespace().next()?.parse().ok()
    }

    /// What lies in a folder, in the order in which people count (`cpu2` before `cpu10`).
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(path)).into_iter().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// What lies in a folder and is called `prefix` and a number, by number.
    pub fn numbered(&self, path: &str, prefix: &str) -> Vec<(usize, String)> {
        let number = |name: &str| name.strip_prefix(prefix)?.parse().ok();
        let mut found: Vec<(usize, String)> = self
            .names(path)
            .into_iter()
            .filter_map(|name| Some((number(&name)?, format!("{path}/{name}"))))
            .collect();
        found.sort();
        found
    }

    /// Whether there is something at `path`, or a link.
    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.0.join(path)).is_ok()
    }

    /// The names on the way that a link tells, the last one last.
    pub fn link(&self, path: &str) -> Vec<String> {
        let target = fs::read_link(self.0.join(path)).unwrap_or_default();
        let name = |part: std::path::Component| part.as_os_str().to_string_lossy().into_owned();
        target.components().map(name).collect()
    }
}

/// The numbers in a list such as `0-3,8,10-11`.
pub fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::{Root, list};
    use std::path::Path;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(list("5"), [5]);
        assert!(list("").is_empty());
    }

    #[test]
    fn what_is_not_there_is_no_error() {
        let root = Root::new(Path::new("/no/such/folder"));
        assert_eq!(root.text("proc/meminfo"), None);
        assert_eq!(root.number::<u64>("proc/meminfo"), None);
        assert!(root.names("sys").is_empty() && root.link("sys").is_empty() && !root.has("sys"));
    }
}

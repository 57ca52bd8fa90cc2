//! Standard output, whose reader may have gone (`hfr bench | head`): that is nobody's failure, and what else a command does goes on or ends in good order.

use std::io::{self, ErrorKind, Write};

/// Writes it all, at once. False when nobody reads any more. Where it cannot be written for another reason, as on a full disk, the process ends.
pub fn print(text: &str) -> bool {
    match write(&mut io::stdout().lock(), text) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("hfr: cannot write to standard output: {error}");
            std::process::exit(1);
        }
    }
}

fn write(out: &mut impl Write, text: &str) -> io::Result<bool> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(write(&mut writer, "read by somebody").unwrap());
        drop(reader);
        assert!(!write(&mut writer, "read by nobody").unwrap());
        let mut full = std::fs::File::create("/dev/full").unwrap();
        assert!(write(&mut full, "no room").is_err());
    }
}

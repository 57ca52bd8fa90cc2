//! Failures: a code, a text, and where the last text is kept for `hfrGetLastError`. Knows the error of the library and no call of it.
//! Invariant: a failure that leaves an exported function has left its text with the thread, and a panic leaves as hfrInternalError.

use crate::value::Code;
use hfr::Error;
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What a function has come to, or why not.
pub type Outcome<T> = Result<T, Fail>;

/// A failure on its way to C.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    pub code: Code,
    pub text: String,
    /// The text says already who and where: the library's do, and are to be the same on every rank.
    complete: bool,
}

impl Fail {
    pub fn new(code: Code, text: impl Into<String>) -> Fail {
        Fail {
            code,
            text: text.into(),
            complete: false,
        }
    }

    /// A text that says already who and what.
    pub fn complete(code: Code, text: impl Into<String>) -> Fail {
        Fail {
            code,
            text: text.into(),
            complete: true,
        }
    }

    /// An argument makes no sense.
    pub fn argument(text: impl Into<String>) -> Fail {
        Fail::new(Code::InvalidArgument, text)
    }

    /// A call that must not come now.
    pub fn usage(text: impl Into<String>) -> Fail {
        Fail::new(Code::InvalidUsage, text)
    }

    /// With who and what in front, once.
    pub fn within(mut self, what: &str, rank: Option<usize>) -> Fail {
        if !self.complete {
            let who = rank.map(|r| format!("rank {r}: ")).unwrap_or_default();
            self.text = format!("{who}{what}: {}", self.text);
            self.complete = true;
        }
        self
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        Fail::complete(Code::of(error.kind), error.to_string())
    }
}

thread_local! {
    /// The text of this thread's last failure.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    /// What `hfrGetLastError` returned last: kept until it is asked again.
    static SHOWN: RefCell<CString> = RefCell::default();
}

/// Keeps the text of a failure for this thread. A thread that is ending keeps none.
pub fn note(text: &str) {
    let _ = LAST.try_with(|last| text.clone_into(&mut last.borrow_mut()));
}

/// This thread's last failure.
pub fn last() -> String {
    LAST.try_with(|last| last.borrow().clone())
        .unwrap_or_default()
}

/// A text as C has it, good until this thread shows another.
pub fn show(text: &str) -> *const c_char {
    let plain: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    let text = CString::new(plain).unwrap_or_default();
    let shown = SHOWN.try_with(|shown| {
        *shown.borrow_mut() = text;
        shown.borrow().as_ptr()
    });
    const NOTHING: &CStr = c"";
    shown.unwrap_or(NOTHING.as_ptr())
}

/// Runs `f`; a panic becomes a failure.
pub fn caught<T>(f: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    // What `f` may leave half done is behind locks whose poison is looked through, and then in no use: the failure says so.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without words".to_owned());
        Err(Fail::new(
            Code::InternalError,
            format!("{text}; this is a bug of the library, please report it"),
        ))
    })
}

/// The body of an exported function: what it comes to as a code, its failure noted.
pub fn guard(what: &str, f: impl FnOnce() -> Outcome<Code>) -> Code {
    match caught(f) {
        Ok(code) => code,
        Err(fail) => {
            let fail = fail.within(what, None);
            note(&fail.text);
            fail.code
        }
    }
}

/// Writes through an out pointer of C.
///
/// # Safety
/// `at` is NULL or good for a `T`.
pub unsafe fn put<T>(at: *mut T, name: &str, value: T) -> Outcome<()> {
    if at.is_null() {
        return Err(Fail::argument(format!(
            "{name} is NULL; pass where the result goes"
        )));
    }
    // SAFETY: not NULL, and then good for a `T`, as the caller promises.
    unsafe { at.write(value) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_error_with_its_words() {
        let code = guard("hfrTest", || panic!("slot {} is gone", 3));
        assert_eq!(code, Code::InternalError);
        assert!(
            last().starts_with("hfrTest: slot 3 is gone; this is a bug"),
            "{}",
            last()
        );
    }

    #[test]
    fn the_text_of_a_failure_stays_until_the_next_of_the_thread() {
        assert_eq!(
            guard("hfrTest", || Err(Fail::usage("too early"))),
            Code::InvalidUsage
        );
        assert_eq!(guard("hfrTest", || Ok(Code::Success)), Code::Success);
        assert_eq!(last(), "hfrTest: too early");
        std::thread::spawn(|| assert_eq!(last(), ""))
            .join()
            .expect("no panic");
    }

    #[test]
    fn a_text_with_a_nul_is_shown_without_it() {
        // SAFETY: what `show` returns is good until this thread shows another.
        let shown = unsafe { CStr::from_ptr(show("a\0b")) };
        assert_eq!(shown, c"ab");
    }
}

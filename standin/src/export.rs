//! How a Rust function becomes a symbol of the driver: the prologue of every call, and the places that callers hand in to be written.
//! It knows no call by what it does. Invariant: no call's body runs before `cuInit`, in a forked child, or within a host function, but for those that may.

use crate::{
    code::{Answer, Code, INVALID_VALUE, NOT_INITIALIZED},
    driver, host_function,
    misuse::misuse,
};
use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_void},
};

/// Makes driver symbols of functions that answer, and `exports()`, which lists them for look-ups by name.
macro_rules! exports {
    ($(fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($argument: $kind),*) -> u32 {
                $crate::export::call(stringify!($name), move || -> $crate::code::Answer { $body })
            }
        )*

        /// The symbols of this file.
        pub fn exports() -> Vec<$crate::export::Export> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}
pub(crate) use exports;

/// A symbol's name and address.
pub type Export = (&'static str, usize);

/// Calls that need no `cuInit`.
const BEFORE_INIT: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetProcAddress_v2",
];

thread_local! {
    static CALL: Cell<&'static str> = const { Cell::new("no call") };
}

/// The driver call that this thread is in, for messages; a stream's thread says whose operation it carries out.
pub fn current_call() -> &'static str {
    CALL.get()
}

/// From now on this thread acts for that call.
pub fn acts_for(name: &'static str) {
    CALL.set(name);
}

/// What happens around each call's body.
pub fn call(name: &'static str, body: impl FnOnce() -> Answer) -> u32 {
    acts_for(name);
    if host_function::is_inside() {
        misuse("a host function calls the driver");
    }
    if !BEFORE_INIT.contains(&name) {
        match driver::process() {
            None => misuse("called before cuInit"),
            Some(process) if process != std::process::id() => return NOT_INITIALIZED.0,
            Some(_) => (),
        }
    }
    match body() {
        Ok(()) => 0,
        Err(Code(code)) => code,
    }
}

/// A place of the caller's that a call writes.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the place; a null one is an invalid value.
    pub fn give(&self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: a driver call's contract: a pointer that is not null is the caller's place for one value of this type, alive during the call.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Writes the place if there is one: for values that a caller may decline.
    pub fn give_if_wanted(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `give`.
            unsafe { self.0.write(value) };
        }
    }

    /// This place, or that of the n-th element where it is an array's.
    pub fn at(&self, n: usize) -> Self {
        Self(self.0.wrapping_add(n))
    }
}

impl<T: Copy> Out<T> {
    /// What the caller wrote into it before.
    pub fn read(&self) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: a driver call's contract: the caller has initialised what the call reads.
        Ok(unsafe { self.0.read() })
    }
}

impl<T> Out<*mut T> {
    /// The place that an array of untyped places has here, as one for `U`.
    pub fn inner<U>(&self) -> Result<Out<U>, Code> {
        Ok(Out(self.read()?.cast()))
    }
}

impl Out<c_void> {
    /// An untyped place as one for `U`.
    pub fn of<U>(&self) -> Out<U> {
        Out(self.0.cast())
    }
}

impl Out<c_char> {
    /// Writes a text with its closing zero, cut to what fits.
    pub fn give_text(&self, text: &str, room: i32) -> Answer {
        let room = usize::try_from(room).map_err(|_| INVALID_VALUE)?;
        if room == 0 {
            return Err(INVALID_VALUE);
        }
        let kept = text.len().min(room - 1);
        for (n, byte) in text.as_bytes()[..kept].iter().chain(&[0]).enumerate() {
            self.at(n).give(*byte as c_char)?;
        }
        Ok(())
    }
}

/// A place for the address of a text that lives as long as the library.
#[repr(transparent)]
pub struct Text(Out<*const c_char>);

impl Text {
    /// Writes the address.
    pub fn give(&self, text: &'static CStr) -> Answer {
        self.0.give(text.as_ptr())
    }
}

/// A text that the caller hands in.
#[repr(transparent)]
pub struct Given(*const c_char);

impl Given {
    /// The text, if it is one.
    pub fn text(&self) -> Result<&str, Code> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: a driver call's contract: the caller's string ends in a zero and lives during the call.
        unsafe { CStr::from_ptr(self.0) }
            .to_str()
            .map_err(|_| INVALID_VALUE)
    }
}

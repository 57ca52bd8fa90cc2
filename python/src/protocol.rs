//! The buffer protocol's three functions, declared here because the stable ABI has them only from Python 3.11 on. The functions are
//! older than Python 3 and the structure has not changed since 3.3, so that they are good for every CPython that this package runs
//! on. Knows no array library.

use pyo3::ffi::{Py_ssize_t, PyObject};
use std::ffi::{c_char, c_int, c_void};

/// `Py_buffer`.
#[repr(C)]
pub struct Buffer {
    pub at: *mut c_void,
    pub object: *mut PyObject,
    pub bytes: Py_ssize_t,
    pub item_size: Py_ssize_t,
    pub read_only: c_int,
    pub dimensions: c_int,
    pub format: *mut c_char,
    pub shape: *mut Py_ssize_t,
    pub strides: *mut Py_ssize_t,
    pub suboffsets: *mut Py_ssize_t,
    pub internal: *mut c_void,
}

impl Buffer {
    /// One to be filled in.
    pub const fn empty() -> Buffer {
        Buffer {
            at: std::ptr::null_mut(),
            object: std::ptr::null_mut(),
            bytes: 0,
            item_size: 0,
            read_only: 0,
            dimensions: 0,
            format: std::ptr::null_mut(),
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            suboffsets: std::ptr::null_mut(),
            internal: std::ptr::null_mut(),
        }
    }
}

/// `PyBUF_FORMAT | PyBUF_C_CONTIGUOUS`: format and shape, contiguous, writable or not.
pub const CONTIGUOUS: c_int = 0x04 | 0x38;
/// `Py_bf_getbuffer`, a slot of a type.
pub const GET_BUFFER_SLOT: c_int = 1;

unsafe extern "C" {
    #[link_name = "PyObject_GetBuffer"]
    pub fn get_buffer(object: *mut PyObject, view: *mut Buffer, flags: c_int) -> c_int;
    #[link_name = "PyBuffer_Release"]
    pub fn release_buffer(view: *mut Buffer);
    #[link_name = "PyBuffer_FillInfo"]
    pub fn fill_info(
        view: *mut Buffer,
        object: *mut PyObject,
        at: *mut c_void,
        bytes: Py_ssize_t,
        read_only: c_int,
        flags: c_int,
    ) -> c_int;
}

//! The calls that would run a kernel, or load one: here only to say that somebody did. The library under test promises never to.

use crate::{export::exports, misuse::misuse};
use std::ffi::c_void;

fn never() -> ! {
    misuse("a kernel was launched or loaded; the copy engines alone may be used")
}

exports! {
    fn cuLaunchKernel(_function: usize) { never() }
    fn cuLaunchKernelEx(_settings: *const c_void, _function: usize) { never() }
    fn cuLaunchCooperativeKernel(_function: usize) { never() }
    fn cuModuleLoad(_module: *mut c_void) { never() }
    fn cuModuleLoadData(_module: *mut c_void, _image: *const c_void) { never() }
    fn cuModuleLoadDataEx(_module: *mut c_void, _image: *const c_void) { never() }
    fn cuLibraryLoadData(_library: *mut c_void, _image: *const c_void) { never() }
}

//! Look-up of the driver's symbols by name, as `cuGetProcAddress` offers it: a name without its version finds the newest that there is.
//! It knows where symbols are listed, and nothing of what they do.

use crate::{
    capture, code,
    code::NOT_FOUND,
    context, copy, device, driver, event,
    export::{Export, Given, Out, exports},
    host_function, kernel, memops, memory, pointer, registration, stream,
};

fn all() -> Vec<Export> {
    [
        capture::exports,
        code::exports,
        context::exports,
        copy::exports,
        device::exports,
        driver::exports,
        event::exports,
        host_function::exports,
        kernel::exports,
        memops::exports,
        memory::exports,
        pointer::exports,
        registration::exports,
        stream::exports,
        exports,
    ]
    .iter()
    .flat_map(|list| list())
    .collect()
}

/// The address of a symbol, newest version first.
fn find(name: &str) -> Option<usize> {
    let list = all();
    let named = |wanted: &str| {
        list.iter()
            .find(|(known, _)| *known == wanted)
            .map(|(_, address)| *address)
    };
    named(&format!("{name}_v3"))
        .or_else(|| named(&format!("{name}_v2")))
        .or_else(|| named(name))
}

exports! {
    fn cuGetProcAddress_v2(name: Given, address: Out<usize>, _version: i32, _flags: u64, status: Out<u32>) {
        let found = find(name.text()?);
        // 0 is success, 1 that there is no such symbol.
        status.give_if_wanted(u32::from(found.is_none()));
        address.give(found.unwrap_or(0))?;
        found.map(|_| ()).ok_or(NOT_FOUND)
    }
}

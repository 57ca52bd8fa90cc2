//! The one door through which names of the verbs library come in: from `rdma-sys`, which links libibverbs, or with the feature
//! `verbs-dlopen` from `rdma-mummy-sys`, which opens it at run time. It knows how the two differ and nothing of queue pairs.
//! Invariant: nobody gets a device before `load` has made the library safe for programs that fork.

#[cfg(feature = "verbs-dlopen")]
use rdma_mummy_sys as lib;
#[cfg(not(feature = "verbs-dlopen"))]
use rdma_sys as lib;

pub(super) use lib::{
    ibv_access_flags, ibv_ack_async_event, ibv_ack_cq_events, ibv_alloc_pd, ibv_async_event,
    ibv_close_device, ibv_comp_channel, ibv_context, ibv_cq, ibv_create_comp_channel,
    ibv_create_cq, ibv_create_qp, ibv_dealloc_pd, ibv_dereg_mr, ibv_destroy_comp_channel,
    ibv_destroy_cq, ibv_destroy_qp, ibv_device, ibv_device_attr, ibv_event_type,
    ibv_free_device_list, ibv_get_async_event, ibv_get_cq_event, ibv_get_device_list,
    ibv_get_device_name, ibv_gid, ibv_modify_qp, ibv_mr, ibv_open_device, ibv_pd, ibv_poll_cq,
    ibv_port_attr, ibv_port_state, ibv_post_recv, ibv_post_send, ibv_qp, ibv_qp_attr,
    ibv_qp_attr_mask, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_query_device, ibv_query_gid,
    ibv_query_pkey, ibv_query_qp, ibv_recv_wr, ibv_reg_mr_iova2, ibv_req_notify_cq, ibv_send_flags,
    ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_opcode, ibv_wc_status, ibv_wc_status_str, ibv_wr_opcode,
    rdma_t,
};

use std::ffi::CStr;
use std::sync::OnceLock;

/// Makes the library ready, once per process.
pub(super) fn load() -> Result<(), String> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    READY
        .get_or_init(|| {
            present()?;
            // SAFETY: no verbs object exists yet in this process by way of this crate; a second initialisation by somebody else is harmless.
            match unsafe { lib::ibv_fork_init() } {
                0 => Ok(()),
                // Another library has registered memory before us; then it is up to that one whether children may be forked.
                code => {
                    let why = std::io::Error::from_raw_os_error(code.abs());
                    tracing::debug!(%why, "libibverbs is not made ready for forks: it is in use already");
                    Ok(())
                }
            }
        })
        .clone()
}

/// Linked, the library is there, or this program would not have started.
#[cfg(not(feature = "verbs-dlopen"))]
fn present() -> Result<(), String> {
    Ok(())
}

#[cfg(feature = "verbs-dlopen")]
fn present() -> Result<(), String> {
    // SAFETY: opening a library runs its constructors, which the verbs library has for exactly this purpose.
    let handle = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), libc::RTLD_LAZY) };
    if !handle.is_null() {
        return Ok(()); // Kept open: the process goes on using it.
    }
    // SAFETY: `dlerror` gives null or a text that lives until the next such call of this thread.
    let why = unsafe { libc::dlerror() };
    let why = if why.is_null() {
        "it cannot be opened".into()
    } else {
        // SAFETY: as above, and it is not null.
        unsafe { CStr::from_ptr(why) }
            .to_string_lossy()
            .into_owned()
    };
    Err(format!(
        "libibverbs is not there ({why}); install it (apt install libibverbs1 ibverbs-providers, dnf install libibverbs)"
    ))
}

/// The attributes of a port; the two crates name this function differently, because C has a macro for it.
pub(super) fn query_port(context: *mut ibv_context, port: u8) -> std::io::Result<ibv_port_attr> {
    // SAFETY: plain data, for which all zeros is a value.
    let mut attr: ibv_port_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the context is open, and the kernel writes into the attributes, which live here.
    #[cfg(feature = "verbs-dlopen")]
    let code = unsafe { lib::ibv_query_port(context, port, &raw mut attr) };
    // SAFETY: as above.
    #[cfg(not(feature = "verbs-dlopen"))]
    let code = unsafe { lib::___ibv_query_port(context, port, &raw mut attr) };
    match code {
        0 => Ok(attr),
        code => Err(std::io::Error::from_raw_os_error(code.abs())),
    }
}

/// What the library calls a completion's status.
pub(super) fn status_name(status: ibv_wc_status::Type) -> String {
    // SAFETY: gives a constant text for any number.
    let text = unsafe { ibv_wc_status_str(status) };
    if text.is_null() {
        return format!("status {status}");
    }
    // SAFETY: just checked, and constant.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

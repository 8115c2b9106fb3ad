//! Kamailio's types and functions as bindgen reads them from the headers of the version that is built for.
//! Forbidden here: anything written by hand.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/sys.rs"));

/// What c_shim/layout_fm.h and layout_qm.h say.
pub mod layout {
    include!(concat!(env!("OUT_DIR"), "/layout_fm.rs"));
    include!(concat!(env!("OUT_DIR"), "/layout_qm.rs"));
}

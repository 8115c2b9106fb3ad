//! What outlives the process: the black box and the file of bindings.
//! Forbidden here: anything of a running server but the words it hands over.

pub mod bindings_file;
pub mod blackbox;

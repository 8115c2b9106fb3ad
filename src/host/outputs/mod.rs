//! Where the sampling process brings what it knows: HTTP, text file, black box, bindings file.
//! Forbidden here: gathering figures anew; every answer comes from reports.

pub mod bindings_file;
pub mod blackbox;
pub mod ending;
pub mod serve;
pub mod textfile;

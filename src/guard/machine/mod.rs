//! Memory outside Kamailio's pools and within: the machine, the container, fragments.
//! Forbidden here: reading files; their text comes as an argument.

pub mod buddy;
pub mod cgroup;
pub mod fragments;
pub mod osmem;
pub mod outside;

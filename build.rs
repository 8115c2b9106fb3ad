//! Builds the C shim and the bindings (feature `host`); without the feature there is nothing to do.
//! Forbidden here: fetching anything (`./dev` does that).

fn main() {}

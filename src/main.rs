//! The daemon's program: arguments → configuration → logs → runtime → exit code.

fn main() {}

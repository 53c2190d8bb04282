//! The `luna` command.
fn main() {}

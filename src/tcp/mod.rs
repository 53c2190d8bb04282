//! STUB until the protocol core is merged.
/// Settings of a connection.
#[derive(Clone, Debug, Default)]
pub struct Config;
/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct Info;

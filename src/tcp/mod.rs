//! STUB until the protocol core is merged.
mod config;
mod state;
pub use config::*;
pub use state::*;
/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct Info {
    /// State.
    pub state: State,
}

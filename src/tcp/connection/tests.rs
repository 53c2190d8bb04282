//! Transcripts of a connection against a scripted peer, and two connections against each other.

mod buffers;
mod closing;
mod data;
mod ecn;
mod handshake;
mod hostile;
mod long;
mod loss;
mod pacing;
mod pair;
mod path;
mod recovery;
mod resets;
mod script;
mod telemetry;
mod timers;
mod windows;

//! Why a socket is where it is: the codes are those that the shared statistics show.
#![forbid(unsafe_code)]

pub use crate::stats::Reason;

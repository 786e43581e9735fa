//! Checks of a line whose peer echoes every byte.

pub use super::bytes::*;
pub use super::ends::*;
pub use super::messages::*;

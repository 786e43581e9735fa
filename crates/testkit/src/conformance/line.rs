//! The checks of a line whose far side gives back every byte.

pub use super::bytes::*;
pub use super::ends::*;
pub use super::messages::*;

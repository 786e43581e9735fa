//! One line between two processes

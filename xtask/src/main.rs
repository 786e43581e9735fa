//! The project's only script runner.
fn main() {}

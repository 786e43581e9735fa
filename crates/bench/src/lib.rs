//! Side-by-side benchmarks

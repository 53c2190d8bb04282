//! Differential C tests: see `tests/`.

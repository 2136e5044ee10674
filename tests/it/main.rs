//! The integration tests, linked once.

mod tidy;

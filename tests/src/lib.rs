//! What the tests of the framework share.

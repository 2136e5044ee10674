//! The SQLite broker keeps the contract.

worker_tests::conformance!(worker_tests::fixture::SqliteFixture);

//! The memory broker keeps the contract, whole and reduced.

worker_tests::conformance!(worker_tests::fixture::MemoryFixture<true>);

mod reduced {
    worker_tests::conformance!(worker_tests::fixture::MemoryFixture<false>);
}

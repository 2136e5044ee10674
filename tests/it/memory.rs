//! The memory broker keeps the contract, with priorities and without.

worker_tests::conformance!(worker_tests::fixture::MemoryFixture<true>);

mod without_priorities {
    worker_tests::conformance!(worker_tests::fixture::MemoryFixture<false>);
}

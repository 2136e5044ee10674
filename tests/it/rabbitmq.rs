//! The RabbitMQ broker keeps the contract; and on the simulated server it does the same, case by case.

worker_tests::conformance!(worker_tests::fixture::RabbitFixture);

/// What the simulation of RabbitMQ says is worth something only as long as this agrees with what is above.
mod simulated {
    mod v3_10 {
        worker_tests::conformance!(worker_tests::fixture::SimulatedFixture<false>);
    }

    mod v4_3 {
        worker_tests::conformance!(worker_tests::fixture::SimulatedFixture<true>);
    }
}

//! The SQLite broker keeps the contract.

use std::panic::{AssertUnwindSafe, catch_unwind};

use worker_core::brokers::sqlite::{Mutant, mutate};
use worker_tests::{
    conformance::ownership::a_frozen_consumer_finds_its_deliveries_lost,
    fixture::{BrokerFixture as _, SqliteFixture},
};

worker_tests::conformance!(worker_tests::fixture::SqliteFixture);

/// A suite that never fails proves nothing.
#[test]
fn a_variant_whose_late_settlements_are_accepted_is_caught() {
    // Chosen for this thread, which is the one that opens the brokers.
    mutate(Some(Mutant::NotFenced));
    let fixture = SqliteFixture::new();
    let case = a_frozen_consumer_finds_its_deliveries_lost(&fixture);
    let caught = catch_unwind(AssertUnwindSafe(|| SqliteFixture::runtime().block_on(case)));
    mutate(None);
    let panic = caught.expect_err("a frozen consumer settled what others had");
    let text = panic.downcast_ref::<String>().expect("an assertion with its values");
    assert!(text.contains("Ack") && text.contains("Ok(())"), "{text}");
}

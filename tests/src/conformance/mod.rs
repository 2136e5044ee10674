//! The broker contract as code.
//!
//! Every clause of [`worker_core::broker`] has at least one case here, which
//! names it; a test reads both files and compares. A case gets a fixture with
//! nothing on it and fails by panicking. Where a broker lacks a capability,
//! the case that needs it says so and another asserts the refusal.

pub mod bundles;
pub mod calls;
pub mod dead;
pub mod delay;
pub mod enqueue;
pub mod exchanges;
pub mod flow;
pub mod inspect;
pub mod once;
pub mod order;
pub mod ownership;
pub mod ranks;
pub mod rest;
pub mod settle;
pub mod suspects;

/// Makes a test of every conformance case, for the broker of this [fixture](crate::fixture::BrokerFixture).
///
/// A case is listed here or it does not run; a test compares this list with the files.
#[macro_export]
macro_rules! conformance {
    ($fixture:ty) => {
        $crate::conformance! { $fixture:
            enqueue {
                a_job_answered_ok_outlives_the_process_that_enqueued_it
                a_durable_broker_keeps_its_jobs_while_no_process_lives
                a_full_batch_has_one_answer_per_envelope_in_its_order
                batches_enqueued_at_once_are_all_stored_each_in_its_order
                an_undeclared_queue_is_unroutable_and_costs_its_neighbours_nothing
                a_queue_declared_by_another_process_is_routable
                an_exchange_is_refused_by_name_where_there_is_none
                a_priority_is_refused_by_name_where_there_is_none
                one_id_enqueued_three_times_is_three_jobs
                every_field_arrives_as_it_was_sent_and_stays_so
                a_job_that_was_delayed_arrives_as_due_now
                a_number_in_a_header_keeps_all_its_digits
            }
            exchanges {
                each_kind_of_exchange_chooses_its_queues
                a_queue_gets_one_copy_however_many_of_its_bindings_fit
                each_copy_is_a_job_of_its_own
                what_no_queue_is_chosen_for_is_a_failure_where_it_was_mandatory
                what_was_not_declared_is_refused_by_name_and_costs_its_neighbours_nothing
                a_copy_says_where_it_came_from_to_its_end
                an_exchange_of_another_kind_is_refused_with_both_kinds
                a_delay_to_an_exchange_is_refused
                exchanges_and_bindings_are_there_for_all_processes
            }
            order {
                jobs_come_in_the_order_they_were_enqueued
                each_of_several_consumers_sees_jobs_in_order
                order_survives_a_consumer_that_stops_and_another_that_goes_on
                a_higher_priority_comes_first_and_age_decides_among_equals
                an_urgent_job_overtakes_what_waits
                a_job_that_comes_back_keeps_its_priority
                what_comes_back_comes_first_where_it_has_no_rank
                a_retried_job_keeps_its_priority
                a_subscription_gets_jobs_of_its_queue_only
                no_delivery_is_owned_by_two_consumers
                an_expired_job_is_delivered_with_its_date
                a_first_delivery_has_attempt_1_and_no_starts
            }
            ranks {
                a_queue_that_asks_for_priorities_delivers_by_them_and_by_age
                an_urgent_job_overtakes_what_waits_in_such_a_queue
                a_retried_job_keeps_its_priority_in_such_a_queue
                a_delayed_job_waits_by_its_priority_once_it_is_due
                a_priority_above_the_highest_of_its_queue_is_refused_or_honoured
                two_priorities_are_told_apart_where_there_are_no_more
            }
            flow {
                a_subscription_never_owns_more_than_its_prefetch
                every_settlement_makes_room_for_one_delivery
                a_lost_settlement_makes_no_room
                each_subscription_has_its_own_prefetch
                a_batch_has_at_most_what_was_asked_for
                an_arrival_wakes_a_waiting_consumer
                every_way_back_into_the_queue_wakes_a_waiting_consumer
                a_settlement_wakes_a_consumer_that_was_full
                all_waiting_consumers_are_woken_for_as_many_jobs
                a_stopped_source_gives_nothing_at_once
                a_subscription_that_is_made_larger_takes_more_at_once
                what_was_returned_stays_owned_when_the_prefetch_shrinks
                what_was_fetched_before_the_prefetch_shrank_comes_and_can_be_released
                what_a_resized_subscription_gets_is_in_order
                a_prefetch_that_changes_all_the_time_loses_nothing_and_marks_nothing
                dropping_the_wait_for_a_batch_loses_no_delivery
                what_a_dropped_wait_had_fetched_comes_unchanged
            }
            delay {
                a_delayed_job_comes_when_it_is_due
                delayed_jobs_come_in_the_order_they_are_due
                a_wait_is_shortened_by_a_job_that_is_due_earlier
                a_delay_that_is_over_already_is_none
                a_far_date_stays_far
                a_delayed_job_holds_up_no_other
            }
            settle {
                an_acknowledged_job_is_gone
                acknowledgements_submitted_together_are_all_made_true
                settlements_submitted_in_one_call_are_answered_each_in_its_place
                a_released_delivery_keeps_its_attempt
                a_release_keeps_what_was_counted_before
                a_release_with_a_delay_waits_for_it
                a_note_travels_with_a_released_job
                a_retried_job_waits_and_its_attempt_counts
                a_retry_forgets_the_starts
                a_dead_lettered_job_keeps_all_it_had_and_is_nowhere_else
                the_dead_count_the_executions_that_failed
                a_nameless_job_dies_nameless
                a_confirmed_settlement_outlives_the_process
                a_confirmed_settlement_outlives_all_processes_where_the_broker_is_durable
            }
            once {
                a_second_settlement_is_lost_and_changes_nothing
                of_two_settlements_submitted_together_one_is_made_true
                a_delivery_that_went_on_is_not_its_former_owners
                a_receipt_from_before_a_replay_is_lost
                what_cannot_be_settled_now_comes_back_and_is_still_ours
                a_settlement_whose_ticket_is_dropped_is_made_true
            }
            ownership {
                stopping_gives_back_what_was_fetched_and_not_returned
                stopping_gives_back_a_retried_job_with_its_attempts
                what_was_returned_before_a_stop_is_still_owned
                a_stop_ends_though_jobs_keep_coming
                a_dead_process_gives_back_all_and_only_what_had_begun_is_blamed
                a_death_gives_back_nothing_that_was_not_owned
                a_start_that_was_settled_is_not_blamed_later
                a_delivery_that_went_to_another_after_a_death_is_lost
                a_frozen_consumer_finds_its_deliveries_lost
                dropping_both_halves_gives_everything_back_uncounted
                dropping_one_subscription_leaves_the_others_alone
                a_consumer_dropped_in_the_middle_of_a_wait_gives_everything_back
            }
            suspects {
                a_job_that_kills_its_workers_is_dead_lettered_as_crashed
                a_job_that_never_began_is_never_convicted
                a_subscription_owns_one_suspect_at_a_time_beside_other_jobs
                settling_a_suspect_wakes_a_consumer_that_waits_for_the_next
                each_subscription_owns_a_suspect_of_its_own
                waiting_suspects_take_no_room
            }
            bundles {
                each_job_of_a_bundle_is_delivered_as_it_was_sent_and_in_its_order
                jobs_of_a_bundle_are_settled_each_in_its_own_way
                a_released_job_does_not_wait_for_its_bundle
                stopping_gives_back_the_jobs_of_a_bundle_that_nobody_took
                a_bundle_half_done_comes_back_as_what_is_left
                a_death_brings_back_a_bundle_that_was_not_all_settled
                a_delayed_bundle_comes_when_it_is_due
            }
            calls {
                a_call_is_answered_with_what_its_job_is_acknowledged_with
                a_call_survives_the_worker_that_had_it
                calls_get_their_own_replies_in_whatever_order
                a_dropped_call_is_forgotten_and_its_reply_changes_nothing
                a_caller_that_is_gone_costs_nothing_and_its_failure_is_kept
                a_caller_that_has_died_costs_the_worker_nothing
                a_call_to_an_undeclared_queue_is_unroutable
                the_reply_finds_its_caller_in_another_process
                a_replayed_call_is_a_job_that_nobody_waits_for
                a_call_is_refused_by_name_where_there_are_none
            }
            inspect {
                a_queue_counts_its_jobs_by_what_they_wait_for
                retries_that_wait_are_counted_apart
                every_declared_queue_is_listed_by_name
                a_queue_exists_when_it_was_declared
                what_a_broker_cannot_count_it_says_not_to_know
                living_consumers_are_counted
                the_dead_are_listed_oldest_first_in_whole_pages
                the_order_of_the_dead_is_that_of_their_deaths
                pages_neither_repeat_nor_skip_while_the_dead_change
                a_listing_that_is_dropped_holds_up_no_other
                jobs_that_die_at_the_same_time_are_all_listed
                without_dead_jobs_there_is_one_empty_page
            }
            dead {
                a_listing_shows_what_is_selected
                a_replay_takes_the_selected_ones_only
                a_replayed_job_begins_anew
                a_limited_replay_takes_the_oldest
                a_replay_by_a_thousand_ids_takes_them_all
                replays_at_the_same_time_put_each_job_back_once
                what_died_after_the_date_is_left_alone
                a_replay_in_steps_ends_although_jobs_die_again
                a_drop_removes_the_selected_ones_for_good
                a_limited_drop_takes_the_oldest_dead
            }
            rest {
                declaring_says_what_it_created
                a_queue_declared_by_two_at_once_is_created
                declaring_again_changes_nothing
                what_is_asked_of_a_queue_holds_or_is_refused
                what_no_queue_can_be_is_refused_by_name
                consuming_an_undeclared_queue_is_refused
                what_a_plan_has_is_there_once_it_is_applied
                after_closing_everything_fails_and_nothing_hangs
                closing_ends_a_wait_for_a_batch
                closing_lets_go_of_everything
                closing_finishes_what_was_submitted
                a_settlement_after_closing_is_lost
            }
        }
    };
    ($fixture:ty: $($domain:ident { $($case:ident)* })*) => {$(
        mod $domain {$(
            #[test]
            fn $case() {
                let name = concat!(stringify!($domain), "::", stringify!($case));
                $crate::fixture::conform::<$fixture>(name, $crate::conformance::$domain::$case);
            }
        )*}
    )*};
}

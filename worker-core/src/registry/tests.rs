//! What is wrong with handlers, and what their queues need.

use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    handler::{Context, Requirement},
    job::Job,
    outcome::JobResult,
    queue::QueueType,
};

macro_rules! job {
    ($type:ident, $name:literal, $queue:literal, $options:expr) => {
        #[derive(Serialize, Deserialize)]
        struct $type {}
        impl Job for $type {
            const NAME: &'static str = $name;
            const QUEUE: &'static str = $queue;
            const OPTIONS: JobOptions = $options;
            type Return = ();
        }
        impl Handler for $type {
            fn requirements() -> Vec<Requirement> {
                vec![Requirement::state::<String>()]
            }
            async fn run(self, _: Context) -> JobResult<()> {
                Ok(())
            }
        }
    };
}

job!(First, "first", "q", JobOptions::DEFAULT.aliases(&["old"]));
job!(Second, "old", "q", JobOptions::DEFAULT.priority(Priority::MAX));
job!(Misnamed, "no good", "q", JobOptions::DEFAULT);

#[test]
fn everything_wrong_is_said_at_once_with_file_and_line() {
    let registry = Registry::new().with::<First>().with::<Second>().with::<Misnamed>();
    let problems = registry.problems(&registry.queues(), &States::default(), &Capabilities::none("toy"));
    let all = problems.join("\n");
    assert!(all.contains("two jobs are called `old`: ") && all.contains("name = "), "{all}");
    assert!(all.contains("job name `no good` contains a space"), "{all}");
    assert!(all.contains("job `first` (") && all.contains("needs `State<alloc::string::String>`"), "{all}");
    assert!(all.contains("asks for priority 31, which the toy broker cannot honour"), "{all}");
    assert_eq!(problems.len(), 5, "{all}");
    assert!(all.lines().all(|line| line.contains("registry/tests.rs:")), "{all}");
}

job!(SlowSharded, "slow_sharded", "orders", JobOptions::DEFAULT.shards(four()).timeout(Duration::from_secs(3_600)));
job!(Single, "single", "orders", JobOptions::DEFAULT.shards(std::num::NonZeroU8::MIN));
job!(Plainest, "plainest", "orders", JobOptions::DEFAULT);

const fn four() -> std::num::NonZeroU8 {
    std::num::NonZeroU8::new(4).unwrap()
}

#[test]
fn a_shard_that_is_served_alone_has_the_limits_of_its_queue() {
    let (registry, limit) = (Registry::new().with::<SlowSharded>(), Duration::from_secs(1_800));
    for queue in ["orders", "orders.shard-3"] {
        let problems = registry.too_long(&[queue.parse().unwrap()], limit);
        assert!(problems.len() == 1 && problems[0].contains("job `slow_sharded`"), "{queue}: {problems:?}");
    }
    assert_eq!(registry.too_long(&["others.shard-3".parse().unwrap()], limit), [""; 0]);
}

#[test]
fn one_shard_is_what_every_queue_has() {
    assert_eq!(Registry::new().with::<Single>().with::<Plainest>().own_problems(), [""; 0]);
}

job!(InAShard, "in_a_shard", "mail", JobOptions::DEFAULT.dead_letter_queue("orders.shard-1"));
job!(InDeadOfShard, "in_dead_of_shard", "mail", JobOptions::DEFAULT.dead_letter_queue("orders.shard-1_dlq"));
job!(InSuspects, "in_suspects", "mail", JobOptions::DEFAULT.dead_letter_queue("orders_suspects"));
job!(InRetries, "in_retries", "mail", JobOptions::DEFAULT.dead_letter_queue("orders.shard-2_retry_5000"));
job!(Apart, "apart", "mail", JobOptions::DEFAULT.dead_letter_queue("orders_dead"));

#[test]
fn dead_letters_are_in_no_shard_and_beside_those_of_no_other_queue_whoever_is_registered_first() {
    let both = |a: fn(Registry) -> Registry, b: fn(Registry) -> Registry| {
        [a(b(Registry::new())), b(a(Registry::new()))].map(|registry| registry.own_problems().join("\n"))
    };
    let sharded = |registry: Registry| registry.with::<SlowSharded>();
    for told in both(sharded, |registry| registry.with::<InAShard>()) {
        assert!(told.contains("`orders.shard-1`, which is called like a shard of `orders`"), "{told}");
    }
    for other in [
        |registry: Registry| registry.with::<InDeadOfShard>(),
        |registry: Registry| registry.with::<InSuspects>(),
        |registry: Registry| registry.with::<InRetries>(),
    ] {
        for told in both(sharded, other) {
            assert!(told.contains("are of two queues") && told.contains("both use `orders"), "{told}");
        }
    }
    assert_eq!(both(sharded, |registry| registry.with::<Apart>()), ["", ""]);
}

const RANKED: JobOptions = JobOptions::DEFAULT.queue_type(QueueType::Classic).max_priority(Priority::new(10).unwrap());
job!(Ranked, "ranked", "r", RANKED);
job!(AlsoRanked, "also_ranked", "r", RANKED.priority(Priority::MIN));
job!(Silent, "silent", "r", JobOptions::DEFAULT);
job!(TooHigh, "too_high", "high", RANKED.priority(Priority::MAX));
job!(Unpaid, "unpaid", "unpaid", JobOptions::DEFAULT.max_priority(Priority::MAX));

#[test]
fn what_all_jobs_of_a_queue_ask_of_it_is_in_its_topology() {
    let registry = Registry::new().with::<Ranked>().with::<AlsoRanked>().with::<First>();
    let (ranked, plain) = ("r".parse().unwrap(), "q".parse().unwrap());
    assert_eq!(registry.topology(&ranked).options[&ranked], RANKED.queue_options().unwrap());
    assert!(registry.topology(&plain).options.is_empty());
    assert!(registry.problems.is_empty(), "{:?}", registry.problems);
}

#[test]
fn jobs_that_ask_for_different_things_of_one_queue_are_refused_with_both_places() {
    for registry in
        [Registry::new().with::<Ranked>().with::<Silent>(), Registry::new().with::<Silent>().with::<Ranked>()]
    {
        let [problem] = &*registry.problems else { panic!("{:?}", registry.problems) };
        for part in ["`ranked`", "`silent`", "queue `r`", "max_priority = 10", "nothing", "write the same"] {
            assert!(problem.contains(part), "{problem}");
        }
        assert_eq!(problem.matches("registry/tests.rs:").count(), 2, "{problem}");
    }
}

#[test]
fn what_no_queue_can_be_is_refused_with_file_and_line() {
    let registry = Registry::new().with::<TooHigh>().with::<Unpaid>();
    let [high, unpaid] = &*registry.problems else { panic!("{:?}", registry.problems) };
    assert!(high.contains("`too_high` (") && high.contains("priority is 31") && high.contains("0 to 10"), "{high}");
    assert!(unpaid.contains("`unpaid` (") && unpaid.contains("queue_type = \"classic\""), "{unpaid}");
}

const FOUR: JobOptions = JobOptions::DEFAULT.shards(std::num::NonZeroU8::new(4).unwrap());
job!(Sharded, "sharded", "orders", FOUR.dead_letter_queue("graves"));
job!(AlsoSharded, "also_sharded", "wide", FOUR);
job!(NotSharded, "not_sharded", "wide", JobOptions::DEFAULT);
job!(LikeAShard, "like_a_shard", "wide.shard-3", JobOptions::DEFAULT);
job!(Copied, "copied", "copies", FOUR.on(On::new("events", ExchangeKind::Fanout, &[])));

#[test]
fn a_queue_with_shards_needs_each_of_them_with_what_it_asks() {
    let (registry, orders) = (Registry::new().with::<Sharded>(), "orders".parse().unwrap());
    assert_eq!(registry.queues(), ["orders"]);
    let needs = registry.needs(&registry.queues());
    let shards = ["orders", "orders.shard-1", "orders.shard-2", "orders.shard-3"];
    assert_eq!(
        (registry.shards(&orders), &needs.topology.queues),
        (shards.map(|name| name.parse().unwrap()).to_vec(), &registry.shards(&orders))
    );
    assert_eq!(needs.retries.len(), 4);
    let last: QueueName = "orders.shard-3".parse().unwrap();
    let dead = |topology: &Topology| topology.options[&last].dead_letter_queue.clone().unwrap();
    assert_eq!(dead(&needs.topology), "graves.shard-3");
    let one = registry.topology_of_one(&last);
    assert_eq!((&*one.queues, dead(&one)), (&[last.clone()][..], "graves.shard-3".parse().unwrap()));
    assert_eq!(registry.topology_of_one(&orders).queues, ["orders"]);
    assert_eq!((registry.shards(&last), registry.topology(&last)), (vec![last.clone()], one));
}

#[test]
fn a_job_belongs_to_each_shard_of_its_queue() {
    let registry = Registry::new().with::<Sharded>();
    let (shard, other) = ("orders.shard-3".parse().unwrap(), "order.shard-3".parse().unwrap());
    assert_eq!(registry.find(&shard, None).unwrap().name, "sharded");
    assert!(registry.find(&other, None).is_none());
    let problems = registry.problems(&[shard], &States::default(), &Capabilities::none("toy")).join("");
    assert!(problems.contains("`sharded`") && problems.contains("which was not given"), "{problems}");
}

#[test]
fn shards_that_cannot_be_are_refused_with_file_and_line() {
    let problem = |registry: Registry| {
        let [problem] = &*registry.problems else { panic!("{:?}", registry.problems) };
        assert!(problem.contains("registry/tests.rs:"), "{problem}");
        problem.clone()
    };
    let disagree = problem(Registry::new().with::<AlsoSharded>().with::<NotSharded>());
    assert!(disagree.contains("queue `wide`: shards = 4 and nothing"), "{disagree}");
    let like = problem(Registry::new().with::<LikeAShard>());
    assert!(like.contains("`wide.shard-3`, is called like a shard of `wide`"), "{like}");
    let copied = problem(Registry::new().with::<Copied>());
    assert!(copied.contains("`events`") && copied.contains("`shards = 4`"), "{copied}");
}

job!(Dead, "dead", "orders", JobOptions::DEFAULT.dead_letter_queue("graves"));
job!(Undead, "undead", "emails", JobOptions::DEFAULT.dead_letter_queue("graves"));
job!(OfGraves, "of_graves", "graves", JobOptions::DEFAULT);
job!(Usual, "usual", "mail", JobOptions::DEFAULT);
job!(InTheUsual, "in_the_usual", "bills", JobOptions::DEFAULT.dead_letter_queue("mail_dlq"));
job!(Nameless, "nameless", "n", JobOptions::DEFAULT.dead_letter_queue("no good"));

#[test]
fn dead_letters_of_two_queues_are_not_mixed_nor_run() {
    for registry in [
        Registry::new().with::<Dead>().with::<Undead>(),
        Registry::new().with::<Dead>().with::<OfGraves>(),
        Registry::new().with::<OfGraves>().with::<Dead>(),
        Registry::new().with::<Usual>().with::<InTheUsual>(),
    ] {
        let [problem] = &*registry.problems else { panic!("{:?}", registry.problems) };
        assert!(problem.contains("of its own") && problem.matches("registry/tests.rs:").count() == 2, "{problem}");
    }
    let fine = Registry::new().with::<Dead>().with::<Usual>();
    assert!(fine.problems.is_empty(), "{:?}", fine.problems);
    let nameless = Registry::new().with::<Nameless>().problems.join("");
    assert!(nameless.contains("`nameless`") && nameless.contains("`no good` contains a space"), "{nameless}");
}

#[test]
fn a_priority_needs_a_broker_or_a_queue_that_has_them() {
    let mut states = States::default();
    states.insert(Arc::new(String::new()));
    let problems = |registry: &Registry, can: &Capabilities| registry.problems(&registry.queues(), &states, can);
    let mut server = Capabilities::none("rabbitmq");
    (server.queue_priorities, server.server) = (true, Some("RabbitMQ 3.10.8".into()));
    let (plain, ranked) = (Registry::new().with::<Second>(), Registry::new().with::<AlsoRanked>());
    let told = problems(&plain, &server).join("\n");
    assert!(told.contains("RabbitMQ 3.10.8 cannot honour") && told.contains("max_priority = 10"), "{told}");
    assert_eq!(problems(&ranked, &server), [""; 0]);
    server.two_priorities = true;
    assert_eq!(problems(&plain, &server), [""; 0]);
    assert_eq!(problems(&ranked, &Capabilities::none("toy")).len(), 1);
}

const EVENTS: JobOptions = JobOptions::DEFAULT.on(On::new("events", ExchangeKind::Topic, &["order.*", "#.created"]));
job!(Audit, "audit", "q", EVENTS);
job!(Bill, "bill", "q", EVENTS);
job!(Send, "send", "mail", JobOptions::DEFAULT.on(On::new("events", ExchangeKind::Fanout, &[])));
job!(Pick, "pick", "p", JobOptions::DEFAULT.on(On::new("direct", ExchangeKind::Direct, &[])));

#[test]
fn what_a_job_runs_for_is_in_the_topology_of_its_queue_and_its_listener_is_found() {
    let (registry, queue) = (Registry::new().with::<Audit>().with::<First>(), "q".parse().unwrap());
    let topology = registry.topology(&queue);
    assert_eq!((topology.queues.len(), topology.exchanges.len(), topology.bindings.len()), (1, 1, 2));
    assert_eq!(registry.listener(&queue, "events").unwrap().name, "audit");
    assert!(registry.listener(&queue, "others").is_none());
    assert!(registry.listener(&"mail".parse().unwrap(), "events").is_none());
}

#[test]
fn what_several_queues_need_is_named_once() {
    let registry = Registry::new().with::<Audit>().with::<First>().with::<Bill>().with::<Send>();
    let needs = registry.needs(&["q".parse().unwrap(), "mail".parse().unwrap(), "q".parse().unwrap()]);
    let Topology { queues, exchanges, bindings, .. } = &needs.topology;
    assert_eq!((queues.len(), bindings.len()), (2, 3));
    assert_eq!(exchanges.len(), 2, "one name with two kinds, which is told as a problem");
    assert_eq!(needs.retries.len(), 2, "one policy for each queue");
}

#[test]
fn jobs_that_cannot_both_get_what_they_run_for_are_refused() {
    let registry = Registry::new().with::<Audit>().with::<Bill>().with::<Send>().with::<Pick>();
    let mut able = Capabilities::none("toy");
    let mut states = States::default();
    states.insert(Arc::new(String::new()));
    let unable = registry.problems(&registry.queues(), &states, &able).join("\n");
    assert!(unable.contains("`audit`") && unable.contains("the toy broker has no exchanges"), "{unable}");
    able.exchanges = true;
    let problems = registry.problems(&registry.queues(), &states, &able);
    let all = problems.join("\n");
    assert!(all.contains("say which keys of `direct` it runs for"), "{all}");
    assert!(all.contains("from one queue, `q`, where only one copy arrives"), "{all}");
    assert!(all.contains("one as topic and one as fanout"), "{all}");
    assert_eq!(problems.len(), 4, "{all}");
}

#[test]
fn a_nameless_message_belongs_to_the_queues_only_job() {
    let queue = "q".parse().unwrap();
    let one = Registry::new().with::<First>();
    assert_eq!(one.find(&queue, None).unwrap().name, "first");
    assert!(one.find(&"other".parse().unwrap(), None).is_none());
    assert!(one.with::<Second>().find(&queue, None).is_none(), "which of the two?");
}

#[test]
fn an_alias_finds_the_job() {
    let registry = Registry::new().with::<First>();
    let alias = "old".parse().unwrap();
    assert_eq!(registry.find(&"q".parse().unwrap(), Some(&alias)).unwrap().name, "first");
}

#[test]
fn registering_a_job_twice_is_a_duplicate() {
    let registry = Registry::new().with::<First>().with::<First>();
    assert_eq!(registry.problems(&[], &States::default(), &Capabilities::none("toy")).len(), 2);
}

//! The permissions that the guide names are enough for everything that a program does.

use std::path::Path;

use worker_tests::rabbit::{shared_node, shared_vhost};

use crate::cli::program::Program;

/// The regular expressions of the guide, for configure, write and read.
fn permissions() -> [String; 3] {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/rabbitmq.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let of = |name: &str| {
        let row = guide.lines().find(|line| line.starts_with(&format!("{name}='"))).unwrap();
        row.split('\'').nth(1).unwrap().to_owned()
    };
    ["configure", "write", "read"].map(of)
}

#[tokio::test]
async fn what_the_guide_allows_is_enough() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let user = format!("jobs-{}", vhost.name());
    node.create_user(&user, "secret").await;
    let [configure, write, read] = permissions();
    // The guide's queues are `orders` and `emails`; the program's that fails is `trouble`.
    let [configure, read] = [configure, read].map(|regex| regex.replace("emails", "trouble"));
    node.set_permissions(&user, vhost.name(), &configure, &write, &read).await;
    let url = vhost.url().replace("guest:guest", &format!("{user}:secret"));
    let program = Program::new().with("WORKER_BROKER_URL", &url).with("WORKER_QUEUES", "trouble,orders");

    program.run(&["enqueue", "fail", "message=on purpose", "--id", "f"]).exits(0);
    program.run(&["enqueue", "whole", "id=a", "amount=1", "--in", "200ms"]).exits(0);
    let running = program.start(&["run"]);
    running.stderr.wait_for("job dead-lettered");
    worker_tests::eventually::eventually("the delayed order was done", async || {
        let queues = node.list_queues(vhost.name()).await;
        let open = |name: &str| {
            queues
                .iter()
                .filter(|queue| queue.name.starts_with(name))
                .map(|queue| queue.ready + queue.unacked)
                .sum::<u64>()
        };
        (open("worker.") + open("orders") == 0).then_some(())
    })
    .await;
    // By name: the program has queues that this user may not look at.
    program.run(&["dlq", "list", "--queue", "trouble"]).exits(0).prints(&["f\tfail\ttrouble"]);
    program.run(&["dlq", "replay", "--queue", "trouble", "--yes"]).exits(0);
    running.signal("TERM");
    running.end().exits(0);
    program.run(&["health"]).exits(0);
}

//! Request and reply: the server of Fibonacci's numbers, and who calls it.

use std::future::IntoFuture as _;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use worker_core::{CallError, prelude::*};

#[job(queue = "rpc_queue")]
async fn fibonacci(n: u64) -> JobResult<u64> {
    if n > 90 {
        return Err(format!("{n} is too much").into());
    }
    Ok((0..n).fold((0, 1), |(a, b), _| (b, a + b)).0)
}

/// The server in Python, as its callers see it: a name, a queue, what goes in and what comes out.
#[derive(Serialize, Deserialize)]
struct Fibonacci {
    n: u64,
}

impl Job for Fibonacci {
    const NAME: &'static str = "fibonacci";
    const QUEUE: &'static str = "rpc_queue";
    type Return = JobResult<u64>;
}

async fn ask(client: &Client, numbers: &[u64]) -> Vec<Result<u64, CallError>> {
    let calls = numbers.iter().map(|n| client.call(Fibonacci { n: *n }).timeout("20s").into_future());
    join_all(calls).await
}

mod tests {
    use std::process::Stdio;

    use worker_core::{Registry, broker::Topology, config::SettingsReader};
    use worker_tests::{
        eventually::{eventually, soon},
        rabbit::{Vhost, shared_node, shared_vhost},
    };

    use super::*;
    use crate::{
        bench::Running,
        from_pika::{run, tutorial},
    };

    /// A client of a program that has this setting.
    async fn connect(vhost: &Vhost, reply_queues: &str) -> Client {
        let variables = [("WORKER_BROKER_URL", vhost.url()), ("WORKER_RABBITMQ_REPLY_QUEUES", reply_queues)];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let settings = SettingsReader::new().read(variables).unwrap();
        settings.connect().await.unwrap()
    }

    async fn serve(client: &Client) -> Running {
        client.declare(&Topology::queues(["rpc_queue".parse().unwrap()])).await.unwrap();
        Running::start(Worker::builder(client).registry(Registry::new().with::<fibonacci>()))
    }

    #[tokio::test]
    async fn aio_pika_calls_a_job_of_ours_several_times_at_once() {
        let vhost = shared_vhost();
        let client = Client::connect(vhost.url()).await.unwrap();
        let running = serve(&client).await;
        let said = run("rpc_client.py", &[vhost.url()]).await;
        assert_eq!(said[0], r#"["55", "832040", "91 is too much"]"#);
        // It is the client that names it, unlike `queue_declare("")` of pika: that is why it has to be allowed.
        assert!(said[1].starts_with("amq_"), "{said:?}");
        running.stop().await;
        client.close().await.unwrap();
    }

    #[tokio::test]
    async fn we_call_a_server_with_aio_pika_several_times_at_once() {
        let vhost = shared_vhost();
        let client = connect(&vhost, "amq.gen-*").await;
        client.declare(&Topology::queues(["rpc_queue".parse().unwrap()])).await.unwrap();
        let mut server = tutorial("rpc_server.py", &[vhost.url()]).stdin(Stdio::piped()).spawn().unwrap();
        let answers = soon("the server answered", ask(&client, &[10, 0, 20, 1])).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [55, 0, 6_765, 1]);
        // It acknowledges a request after it has answered.
        eventually("the requests are acknowledged", async || {
            let queue = shared_node().queue_info(vhost.name(), "rpc_queue").await;
            (queue.ready + queue.unacked == 0).then_some(())
        })
        .await;
        drop(server.stdin.take());
        assert!(soon("the server ended", server.wait()).await.unwrap().success());
        client.close().await.unwrap();
    }
}

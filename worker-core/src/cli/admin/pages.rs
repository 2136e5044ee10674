//! What each page answers.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::time::timeout;

use super::{Seen, metrics::Page};
use crate::{
    broker::QueueStats,
    cli::{health::depth, out::escape},
    client::{Health, Presence, QueueHealth},
    worker::{Check, WorkerStatus},
};

/// How long the worker's loop may take to answer. It turns in microseconds; longer than a
/// busy machine holds it up, shorter than what a probe that waits is used to.
pub(super) const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// How long the broker may take to answer `/readyz?verbose`, which itself must be there within 10 s.
const ASKED_WITHIN: Duration = Duration::from_secs(3);

const PATHS: &str = "there is /livez, /readyz, /startupz (each with ?verbose) and /metrics\n";

/// All pages.
pub(super) fn pages(seen: Arc<Seen>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics))
        .fallback(async || text(StatusCode::NOT_FOUND, format!("no such page; {PATHS}")))
        .method_not_allowed_fallback(async || text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into()))
        .with_state(seen)
}

/// Whether the event loop turns. It runs on a task of the runtime, so that it also says
/// whether the runtime runs tasks.
async fn livez(State(seen): State<Arc<Seen>>, RawQuery(query): RawQuery) -> Response {
    let problem = match seen.worker.get() {
        // Connecting may take as long as the broker is away.
        None => None,
        Some(worker) => worker.progress(LIVE_WITHIN).await.err().map(|stalled| stalled.to_string()),
    };
    answer("livez", &[check("turning", problem)], query.as_deref())
}

async fn readyz(State(seen): State<Arc<Seen>>, RawQuery(query): RawQuery) -> Response {
    let mut lines = told(seen.worker.get().map_or_else(not_there, WorkerStatus::checks));
    if is_verbose(query.as_deref())
        && let (Some(worker), Some(client)) = (seen.worker.get(), seen.client.get())
    {
        let queues = worker.queues().into_iter().map(|status| status.queue);
        let asked = async {
            let _turn = seen.asking.lock().await;
            client.health().queues(queues).within(ASKED_WITHIN).await
        };
        // The same bound once more, for who waits for others.
        lines.extend(match timeout(ASKED_WITHIN, asked).await {
            Ok(health) => of_broker(health),
            Err(_) => {
                told(vec![check("answering", Some(format!("no answer from the broker within {ASKED_WITHIN:?}")))])
            }
        });
    }
    lay_out("readyz", &lines, query.as_deref())
}

/// What the broker says of itself and of the worker's queues.
fn of_broker(health: Health) -> Vec<Line> {
    let Health { answers, reasons, remarks, queues, .. } = health;
    let problem = (!answers).then(|| reasons.join("; "));
    let mut lines = told(vec![check("answering", problem)]);
    for QueueHealth { queue, presence, stats, .. } in queues {
        let problem = match presence {
            Presence::Exists => None,
            Presence::Missing => Some("it does not exist".into()),
            // Said once, above.
            _ => continue,
        };
        let detail =
            stats.map(|QueueStats { ready, running, dead, consumers, .. }| depth(ready, running, dead, consumers));
        lines.push(Line { check: check(&format!("queue:{queue}"), problem), detail });
    }
    let remark = |remark| Line { check: check("remark", None), detail: Some(remark) };
    lines.extend(remarks.into_iter().map(remark));
    lines
}

/// A check, and what there is to say where it holds.
struct Line {
    check: Check,
    detail: Option<String>,
}

fn told(checks: Vec<Check>) -> Vec<Line> {
    checks.into_iter().map(|check| Line { check, detail: None }).collect()
}

async fn startupz(State(seen): State<Arc<Seen>>, RawQuery(query): RawQuery) -> Response {
    let checks = match seen.worker.get() {
        None => not_there(),
        Some(worker) if worker.has_served() => vec![check("started", None)],
        Some(worker) => {
            let mut checks = vec![check("started", Some("not every queue has been consumed yet".into()))];
            checks.extend(worker.checks());
            checks
        }
    };
    answer("startupz", &checks, query.as_deref())
}

async fn metrics(State(seen): State<Arc<Seen>>) -> Response {
    match seen.metrics.get().map(Page::text) {
        Some(Some(page)) => {
            let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (kind, page).into_response()
        }
        Some(None) => {
            text(StatusCode::NOT_FOUND, "the application records metrics by itself; ask it where they are\n".into())
        }
        None => text(StatusCode::SERVICE_UNAVAILABLE, "nothing is recorded yet: the program is starting\n".into()),
    }
}

fn check(name: &str, problem: Option<String>) -> Check {
    Check { name: name.into(), problem }
}

fn not_there() -> Vec<Check> {
    vec![check("connected", Some("the worker is not there yet: the program makes its state or connects".into()))]
}

fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")))
}

fn answer(probe: &str, checks: &[Check], query: Option<&str>) -> Response {
    lay_out(probe, &told(checks.to_vec()), query)
}

/// `ok`, or each check in the form of Kubernetes' own probes.
fn lay_out(probe: &str, lines: &[Line], query: Option<&str>) -> Response {
    let verbose = is_verbose(query);
    let failed = lines.iter().any(|line| line.check.problem.is_some());
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if !failed && !verbose {
        return text(status, "ok\n".into());
    }
    let line = |Line { check: Check { name, problem }, detail }: &Line| match (problem, detail) {
        (None, None) => format!("[+]{name} ok\n"),
        (None, Some(detail)) => format!("[+]{name} ok: {}\n", escape(detail)),
        (Some(problem), _) => format!("[-]{name} failed: {}\n", escape(problem)),
    };
    let end = if failed { "failed" } else { "passed" };
    text(status, lines.iter().map(line).collect::<String>() + &format!("{probe} check {end}\n"))
}

fn text(status: StatusCode, body: String) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;
    use crate::{Client, Registry, Worker, WorkerPhase, brokers::memory::MemoryBroker};

    async fn read(answer: Response) -> (u16, String) {
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    }

    fn worker() -> (Worker, Arc<Seen>) {
        let client = Client::new(Arc::new(MemoryBroker::new()));
        let worker = Worker::builder(&client).registry(Registry::new()).queues(["q"]).build().unwrap();
        let seen = Seen::default();
        assert!(seen.worker.set(worker.status()).is_ok());
        (worker, Arc::new(seen))
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_has_started_once_it_has_consumed_all_queues_and_that_stays_true() {
        let (worker, seen) = worker();
        let ask = async || read(startupz(State(Arc::clone(&seen)), RawQuery(None)).await).await;
        let (status, why) = ask().await;
        assert_eq!(status, 503);
        assert_eq!(
            why,
            "[-]started failed: not every queue has been consumed yet\n[-]serving failed: starting\n[+]connected ok\n\
             [+]unblocked ok\n[-]consuming:q failed: not subscribed to yet\nstartupz check failed\n"
        );
        let status = worker.status();
        worker.run(async { status.reached(WorkerPhase::Serving).await }).await.unwrap();
        assert_eq!(status.phase(), WorkerPhase::Stopped);
        assert_eq!(ask().await, (200, "ok\n".into()));
    }

    #[tokio::test]
    async fn a_brokers_words_stay_on_their_line() {
        let checks = [check("connected", Some("no\n[+]connected ok\u{1b}[2J".into()))];
        let (_, body) = read(answer("readyz", &checks, None)).await;
        assert_eq!(body.lines().count(), 2, "{body:?}");
        assert!(!body.contains('\u{1b}'), "{body:?}");
    }

    #[tokio::test]
    async fn checks_are_shown_when_asked_for() {
        for (query, lines) in [(None, 1), (Some("verbose"), 2), (Some("a=b&verbose=true"), 2), (Some("verbosely"), 1)] {
            let (_, body) = read(answer("readyz", &[check("turning", None)], query)).await;
            assert_eq!(body.lines().count(), lines, "{query:?}: {body}");
        }
    }
}

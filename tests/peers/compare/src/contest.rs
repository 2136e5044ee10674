//! A peer and ours in turn, round by round.

use std::time::{Duration, Instant};

use crate::{
    loss::Loss,
    measure::{Goal, Line, Sample},
    peer::{OURS, Peer, Store},
    program::{Programs, Report},
    site::Site,
};

/// What came of one peer.
pub(crate) struct Measured {
    pub(crate) lines: Vec<Line>,
    pub(crate) losses: Vec<Loss>,
}

/// One of those who take turns, and what it has reached.
struct Side {
    peer: Peer,
    store: Store,
    enqueue: Vec<Sample>,
    process: Vec<Sample>,
}

impl Side {
    const fn new(peer: Peer, store: Store) -> Self {
        Self { peer, store, enqueue: Vec::new(), process: Vec::new() }
    }
}

/// Measures all rounds of a peer.
pub(crate) async fn run(peer: &Peer, programs: &Programs, site: &mut Site, rounds: usize) -> Result<Vec<Line>, String> {
    let mut sides = vec![Side::new(*peer, peer.store)];
    sides.extend(peer.beside.iter().map(|beside| Side::new(OURS, beside.store)));
    for round in 0..rounds {
        let mut order: Vec<_> = (0..sides.len()).collect();
        // Who is first may have a warmer or a cooler machine.
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            let side = &mut sides[side];
            let began = Instant::now();
            let (enqueue, process) = turn(side, programs, site).await?;
            eprintln!(
                "{} round {}/{rounds}, {} ({}): enqueue {:.0}, process {:.0} jobs/s ({:.1} s)",
                peer.name,
                round + 1,
                side.peer.name,
                side.store.name(),
                enqueue.value,
                process.value,
                began.elapsed().as_secs_f64()
            );
            side.enqueue.push(enqueue);
            side.process.push(process);
        }
    }
    Ok(lines(peer, &sides, !site.quick && rounds > 1))
}

/// Enqueues into a fresh place, and processes what is there.
async fn turn(side: &Side, programs: &Programs, site: &mut Site) -> Result<(Sample, Sample), String> {
    let (peer, store) = (&side.peer, side.store);
    let jobs = site.jobs(peer);
    let place = site.place(store).await?;
    let before = site.server_time(store);
    let enqueued = programs.run(peer, "enqueue", &place, jobs).await?;
    // Without confirms, some may not be there.
    let there = place.settle(site.node(), programs, peer, jobs).await?;
    let between = site.server_time(store);
    if there == 0 {
        return Err(format!("of {jobs} jobs that {} has enqueued none is there", peer.name));
    }
    let processed = programs.run(peer, "process", &place, there).await?;
    let after = site.server_time(store);
    let left = place.settle(site.node(), programs, peer, 0).await?;
    if left > 0 {
        return Err(format!("{} says that all jobs have run, and {left} of {there} are still there", peer.name));
    }
    Ok((sample(enqueued, before.zip(between)), sample(processed, between.zip(after))))
}

fn sample(report: Report, server: Option<(Duration, Duration)>) -> Sample {
    let jobs = report.jobs as f64;
    let per_100_000 = |seconds: f64| seconds * 1e5 / jobs;
    Sample {
        value: jobs / report.seconds,
        client_cpu: Some(per_100_000(report.cpu_seconds)),
        broker_cpu: server.map(|(before, after)| per_100_000(after.saturating_sub(before).as_secs_f64())),
    }
}

fn lines(peer: &Peer, sides: &[Side], judged: bool) -> Vec<Line> {
    let Some((theirs, ours)) = sides.split_first() else { return Vec::new() };
    let base = format!("{} ({})", peer.name, peer.store.name());
    let enqueue = if peer.confirmed { "enqueue" } else { "enqueue, theirs unconfirmed" };
    let pairs = peer.beside.iter().zip(ours);
    let both = pairs.flat_map(|(beside, ours)| {
        let line = |what: &str, goal, ours: &Vec<Sample>, theirs: &Vec<Sample>| {
            let what = format!("{what}, ours on {}", beside.store.name());
            // A few jobs say nothing, nor does one round, which is no further from itself.
            let goal = if judged { goal } else { Goal::None };
            Line::rate(what, goal, ours.clone()).beside(base.clone(), theirs.clone())
        };
        [
            line("process", beside.process, &ours.process, &theirs.process),
            line(enqueue, beside.enqueue, &ours.enqueue, &theirs.enqueue),
        ]
    });
    both.collect()
}

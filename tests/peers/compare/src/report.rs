//! The result: a table for people, JSON for programs.

use std::{fs, process::Command};

use serde::Serialize;

use crate::{
    contest::Measured,
    loss::Loss,
    measure::{Line, Outcome, Sample, Unit},
    peer::{OURS, Peer},
};

type Results = [(&'static Peer, Result<Measured, String>)];

/// What was measured on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setting {
    date: String,
    commit: String,
    machine: String,
    /// Of a minute, when it began: what else the machine had to do.
    load_before: String,
    pub(crate) rabbitmq: Option<String>,
    pub(crate) redis: Option<String>,
    rustc: String,
    rounds: usize,
    quick: bool,
}

impl Setting {
    /// Of this machine, now.
    pub(crate) fn of_now(rounds: usize, quick: bool) -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models: Vec<_> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
        let model = models.first().map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]),
            machine: format!("{} processors, {model}", models.len()),
            load_before: load.split(' ').next().unwrap_or_default().to_owned(),
            rabbitmq: None,
            redis: None,
            rustc: said("rustc", &["--version"]),
            rounds,
            quick,
        }
    }

    fn show(&self) -> String {
        let quick = if self.quick { " (--quick: the figures say nothing)" } else { "" };
        format!(
            "{}, load {} before; RabbitMQ {}, Redis {}, {}; {} rounds{quick}; commit {}, {}\n\n",
            self.machine,
            self.load_before,
            self.rabbitmq.as_deref().unwrap_or("not started"),
            self.redis.as_deref().unwrap_or("not started"),
            self.rustc,
            self.rounds,
            self.commit,
            self.date,
        )
    }
}

/// What a program says in one line.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// All tables, in Markdown, with what it was measured on.
pub(crate) fn table(setting: &Setting, results: &Results) -> String {
    let heads =
        ["peer", "what", "theirs", "ours", "ratio", "by pairs", "spread", "goal", "", "client CPU", "server CPU"];
    let mut rates = vec![heads.map(str::to_owned).to_vec()];
    let mut losses = vec![["", "queue", "jobs each run", "runs", "lost"].map(str::to_owned).to_vec()];
    let mut notes = vec![["", "version", "durability and settings"].map(str::to_owned).to_vec()];
    for (peer, measured) in results {
        notes.push([peer.name, peer.version, peer.note].map(str::to_owned).to_vec());
        match measured {
            Ok(Measured { lines, losses: lost }) => {
                rates.extend(lines.iter().map(row));
                losses.extend(lost.iter().map(loss));
            }
            Err(failure) => {
                let mut cells = vec![String::new(); heads.len()];
                (cells[0], cells[1]) = (peer.name.to_owned(), format!("failed: {}", failure.replace('|', "/")));
                rates.push(cells);
            }
        }
    }
    notes.push([OURS.name, OURS.version, OURS.note].map(str::to_owned).to_vec());
    let rules =
        "Jobs per second, medians. By pairs: the median of the ratios taken round by round; spread: how far these lie
apart. CPU: seconds of a processor per 100,000 jobs, theirs and ours.";
    let lost =
        "Lost: jobs that were said to be enqueued, and were not there when their producer had ended right after the
last `Ok`, in each run.";
    let mut text = format!("{}{}\n{rules}\n", setting.show(), markdown(&rates));
    if losses.len() > 1 {
        text += &format!("\n{}\n{lost}\n", markdown(&losses));
    }
    text + &format!("\n{}", markdown(&notes))
}

fn row(line: &Line) -> Vec<String> {
    let Outcome { value, base, ratio, pair_ratio, spread, verdict } = line.result();
    let figure = |value: Option<f64>| value.map_or_else(String::new, |value| line.unit.show(value));
    let times = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let cpu = |of: fn(&Sample) -> Option<f64>| match line.cpu(of) {
        (Some(base), Some(ours)) => format!("{base:.2} / {ours:.2}"),
        _ => String::new(),
    };
    vec![
        line.base.as_ref().map_or_else(String::new, |(name, _)| name.clone()),
        line.what.clone(),
        figure(base),
        figure(value),
        times(ratio),
        times(pair_ratio),
        format!("{:.0}%", 100.0 * spread),
        line.goal.show(line.unit),
        verdict.show().to_owned(),
        cpu(|sample| sample.client_cpu),
        cpu(|sample| sample.broker_cpu),
    ]
}

fn loss(loss: &Loss) -> Vec<String> {
    let each: Vec<_> = loss.lost.iter().filter(|lost| **lost > 0).map(u64::to_string).collect();
    let runs = loss.lost.len();
    let lost =
        if each.is_empty() { "none".into() } else { format!("in {} of {runs}: {}", each.len(), each.join(", ")) };
    vec![loss.name.into(), loss.store.into(), loss.jobs.to_string(), runs.to_string(), lost]
}

fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    // A failure is as long as it is, and widens no column.
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].as_str()).filter(|cell| !cell.starts_with("failed: "));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        let padded: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("| {} |\n", padded.join(" | "));
        if n == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("| {} |\n", rules.join(" | "));
        }
    }
    text
}

/// The same for programs, with every single measurement.
pub(crate) fn json(setting: &Setting, results: &Results) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        setting: &'a Setting,
        peers: Vec<Entry<'a>>,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        peer: &'a str,
        version: &'a str,
        durability: &'a str,
        failed: Option<&'a str>,
        lines: Vec<Written<'a>>,
        losses: &'a [Loss],
    }
    #[derive(Serialize)]
    struct Written<'a> {
        what: &'a str,
        unit: Unit,
        goal: String,
        #[serde(flatten)]
        outcome: Outcome,
        base_samples: &'a [Sample],
        samples: &'a [Sample],
    }
    let peers = results.iter().map(|(peer, measured)| {
        let (lines, losses) = measured
            .as_ref()
            .map_or((&[][..], &[][..]), |measured| (measured.lines.as_slice(), measured.losses.as_slice()));
        let lines = lines.iter().map(|line| Written {
            what: &line.what,
            unit: line.unit,
            goal: line.goal.show(line.unit),
            outcome: line.result(),
            base_samples: line.base.as_ref().map_or(&[], |(_, samples)| samples),
            samples: &line.ours,
        });
        Entry {
            peer: peer.name,
            version: peer.version,
            durability: peer.note,
            failed: measured.as_ref().err().map(String::as_str),
            lines: lines.collect(),
            losses,
        }
    });
    let report = Report { setting, peers: peers.collect() };
    serde_json::to_string_pretty(&report).unwrap_or_else(|error| error.to_string())
}

//! The result: a table for people, JSON for programs.

use std::{fs, process::Command};

use serde::Serialize;
use worker_core::Timestamp;

use crate::{
    curve::curves,
    measure::{Line, Outcome, Sample, Unit},
};

/// The versions of everything that was measured, and the machine.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setting {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    /// Of a minute, when it began: what else the machine had to do.
    pub(crate) load_before: String,
    pub(crate) rabbitmq: Option<String>,
    pub(crate) sqlite: &'static str,
    pub(crate) lapin: String,
    pub(crate) rustc: String,
    pub(crate) optimised: bool,
    pub(crate) rounds: usize,
    pub(crate) scale: String,
}

impl Setting {
    /// Of this machine, now.
    pub(crate) fn of_now(rounds: usize, scale: String) -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models: Vec<_> = cpus.lines().filter_map(|line| line.strip_prefix("model name")).collect();
        let model = models.first().map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            date: Timestamp::from(std::time::SystemTime::now()).to_string(),
            commit: said("git", &["rev-parse", "--short", "HEAD"]),
            machine: format!("{} processors, {model}", models.len()),
            load_before: load.split(' ').next().unwrap_or_default().to_owned(),
            rabbitmq: None,
            sqlite: rusqlite::version(),
            lapin: locked("lapin"),
            rustc: said("rustc", &["--version"]),
            optimised: !cfg!(debug_assertions),
            rounds,
            scale,
        }
    }
}

/// What a program says in one line.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The version of a crate that this was built with.
fn locked(name: &str) -> String {
    let lock = include_str!("../../../../Cargo.lock");
    let found = lock
        .split("[[package]]")
        .find_map(|package| package.trim().strip_prefix(&format!("name = \"{name}\"\nversion = \"")));
    found.and_then(|rest| rest.split('"').next()).unwrap_or("unknown").to_owned()
}

/// What one row gave.
pub(crate) struct Measured {
    pub(crate) id: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// The table, in Markdown, with what it was measured on.
pub(crate) fn table(setting: &Setting, rows: &[Measured]) -> String {
    let heads =
        ["", "what", "base", "framework", "ratio", "by pairs", "spread", "goal", "", "client CPU", "broker CPU"];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    for Measured { id, lines } in rows {
        cells.extend(lines.iter().map(|line| row(id, line)));
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let mut text = format!(
        "{}, load {} before; RabbitMQ {}, SQLite {}, lapin {}, {}{}; {} rounds; commit {}, {}\n\n",
        setting.machine,
        setting.load_before,
        setting.rabbitmq.as_deref().unwrap_or("not started"),
        setting.sqlite,
        setting.lapin,
        setting.rustc,
        if setting.optimised { "" } else { ", a debug build: worth nothing" },
        setting.rounds,
        setting.commit,
        setting.date,
    );
    for (n, row) in cells.iter().enumerate() {
        let padded: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("| {} |\n", padded.join(" | "));
        if n == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("| {} |\n", rules.join(" | "));
        }
    }
    text += "\nMedians. By pairs: the median of the ratios taken round by round; spread: how far these lie apart. CPU: seconds of a processor\nper 100,000 jobs, base and framework.\n";
    let curves: String = rows.iter().filter(|row| row.id == "P9").map(|row| curves(&row.lines)).collect();
    if !curves.is_empty() {
        text += &format!(
            "\nWhat a job costs (P9), beside the first point of each curve; 1.20 is asked:\n\n```text\n{curves}```\n"
        );
    }
    text
}

fn row(id: &str, line: &Line) -> Vec<String> {
    let Outcome { value, base, ratio, pair_ratio, spread, verdict } = line.result();
    let figure = |value: Option<f64>| value.map_or_else(String::new, |value| line.unit.show(value));
    let times = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let cpu = |of: fn(&Sample) -> Option<f64>| match line.cpu(of) {
        (Some(base), Some(ours)) => format!("{base:.2} / {ours:.2}"),
        (None, Some(ours)) => format!("{ours:.2}"),
        _ => String::new(),
    };
    let name = line.base.as_ref().map_or("", |(name, _)| name);
    let base = if name.is_empty() { String::new() } else { format!("{name}: {}", figure(base)) };
    vec![
        id.to_owned(),
        line.what.clone(),
        base,
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

/// The same for programs, with every single measurement.
pub(crate) fn json(setting: &Setting, rows: &[Measured]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        setting: &'a Setting,
        lines: Vec<Written<'a>>,
    }
    #[derive(Serialize)]
    struct Written<'a> {
        row: &'a str,
        what: &'a str,
        unit: Unit,
        goal: String,
        base_name: Option<&'a str>,
        #[serde(flatten)]
        outcome: Outcome,
        base_samples: &'a [Sample],
        samples: &'a [Sample],
    }
    let written = rows.iter().flat_map(|row| row.lines.iter().map(move |line| (row.id, line)));
    let lines = written.map(|(row, line)| Written {
        row,
        what: &line.what,
        unit: line.unit,
        goal: line.goal.show(line.unit),
        base_name: line.base.as_ref().map(|(name, _)| name.as_str()),
        outcome: line.result(),
        base_samples: line.base.as_ref().map_or(&[], |(_, samples)| samples),
        samples: &line.ours,
    });
    serde_json::to_string_pretty(&Report { setting, lines: lines.collect() }).unwrap()
}

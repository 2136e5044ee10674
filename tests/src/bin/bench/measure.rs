//! What was measured, and what it says: medians, ratios, spread, and whether a goal is met.

use serde::Serialize;

/// Above it nothing is said about a goal: the pairs of one run lie too far apart.
const SPREAD_MAX: f64 = 0.30;

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// Seconds of the processor per 100,000 jobs.
    pub(crate) client_cpu: Option<f64>,
    pub(crate) broker_cpu: Option<f64>,
}

impl Sample {
    /// A figure for which the processor's time is not of interest.
    pub(crate) const fn plain(value: f64) -> Self {
        Self { value, client_cpu: None, broker_cpu: None }
    }
}

/// What the figures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    JobsPerSecond,
    Milliseconds,
    Seconds,
    Percent,
    Megabytes,
    /// Of source code.
    Lines,
    /// The least served of several, as part of the mean.
    Share,
}

impl Unit {
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::JobsPerSecond => thousands(value),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Percent => format!("{value:.3}%"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Lines => format!("{value:.0} lines"),
            Self::Share => format!("{value:.2}"),
        }
    }
}

/// `12,345`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The ratio of the framework to the base, or more.
    RatioAtLeast(f64),
    /// The same, or less.
    RatioAtMost(f64),
    /// No more above the base than this.
    AboveBaseAtMost(f64),
    /// The framework's own figure, or less.
    AtMost(f64),
    /// The framework's own figure, or more.
    AtLeast(f64),
    /// It stands there to be compared with.
    None,
}

impl Goal {
    pub(crate) fn show(self, unit: Unit) -> String {
        match self {
            Self::RatioAtLeast(least) => format!(">= {least:.2}x"),
            Self::RatioAtMost(most) => format!("<= {most:.2}x"),
            Self::AboveBaseAtMost(most) => format!("<= +{}", unit.show(most)),
            Self::AtMost(most) => format!("<= {}", unit.show(most)),
            Self::AtLeast(least) => format!(">= {}", unit.show(least)),
            Self::None => String::new(),
        }
    }
}

/// What a line says about its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    TooNoisy,
    /// There is no goal.
    Reference,
}

impl Verdict {
    pub(crate) const fn show(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "**missed**",
            Self::TooNoisy => "too noisy to judge",
            Self::Reference => "",
        }
    }
}

/// One line of the table: a base and the framework, measured in turn.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) goal: Goal,
    /// What is compared with; nothing where the goal is a figure of its own.
    pub(crate) base: Option<(String, Vec<Sample>)>,
    /// As many as the base has.
    pub(crate) ours: Vec<Sample>,
}

impl Line {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, goal: Goal, ours: Vec<Sample>) -> Self {
        Self { what: what.into(), unit, goal, base: None, ours }
    }

    /// Jobs per second.
    pub(crate) fn rate(what: impl Into<String>, goal: Goal, ours: Vec<Sample>) -> Self {
        Self::new(what, Unit::JobsPerSecond, goal, ours)
    }

    /// Beside this.
    pub(crate) fn beside(mut self, name: impl Into<String>, base: Vec<Sample>) -> Self {
        self.base = Some((name.into(), base));
        self
    }

    /// What the figures say.
    pub(crate) fn result(&self) -> Outcome {
        let values = |samples: &[Sample]| samples.iter().map(|sample| sample.value).collect::<Vec<_>>();
        let ours = values(&self.ours);
        let base = self.base.as_ref().map(|(_, base)| values(base)).filter(|base| !base.is_empty());
        let pairs: Vec<_> = base
            .iter()
            .flatten()
            .zip(&ours)
            .map(|(base, ours)| ours / base)
            .filter(|ratio| ratio.is_finite())
            .collect();
        let (value, base) = (median(&ours), base.as_deref().and_then(median));
        let ratio = value.zip(base).map(|(ours, base)| ours / base);
        let spread = spread(if pairs.is_empty() { &ours } else { &pairs });
        Outcome { value, base, ratio, pair_ratio: median(&pairs), spread, verdict: self.verdict(value, base, spread) }
    }

    fn verdict(&self, value: Option<f64>, base: Option<f64>, spread: f64) -> Verdict {
        let Some(value) = value else { return Verdict::Reference };
        let base = base.unwrap_or(f64::NAN);
        let met = match self.goal {
            Goal::RatioAtLeast(least) => value / base >= least,
            Goal::RatioAtMost(most) => value / base <= most,
            Goal::AboveBaseAtMost(most) => value <= base + most,
            Goal::AtMost(most) => value <= most,
            Goal::AtLeast(least) => value >= least,
            Goal::None => return Verdict::Reference,
        };
        match met {
            _ if spread > SPREAD_MAX => Verdict::TooNoisy,
            true => Verdict::Met,
            false => Verdict::Missed,
        }
    }

    /// Seconds of the processor per 100,000 jobs, medians: of the base and of the framework.
    pub(crate) fn cpu(&self, of: impl Fn(&Sample) -> Option<f64>) -> (Option<f64>, Option<f64>) {
        let middle = |samples: &[Sample]| median(&samples.iter().filter_map(&of).collect::<Vec<_>>());
        (self.base.as_ref().and_then(|(_, base)| middle(base)), middle(&self.ours))
    }
}

/// What a line's figures say.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Outcome {
    /// The framework's median.
    pub(crate) value: Option<f64>,
    pub(crate) base: Option<f64>,
    /// Of the medians.
    pub(crate) ratio: Option<f64>,
    /// The median of the ratios taken pair by pair.
    pub(crate) pair_ratio: Option<f64>,
    /// How far the pairs lie apart, of their median.
    pub(crate) spread: f64,
    pub(crate) verdict: Verdict,
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn spread(values: &[f64]) -> f64 {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    median(values).map_or(0.0, |middle| if middle > 0.0 { (high - low) / middle } else { 0.0 })
}

//! Prometheus' text format, read back strictly.
//!
//! Source: "Exposition formats", text format 0.0.4, in Prometheus' documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What a page of metrics said.
#[derive(Default)]
pub struct Exposition {
    /// Every series by name and labels, as it was written: `jobs{queue="q"}`.
    series: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
    described: BTreeSet<String>,
}

impl Exposition {
    /// Reads a page; panics where it is none.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                assert!(page.described.insert(first_word(help)), "described twice: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(page.types.insert(name.into(), kind.into()).is_none(), "typed twice: {line}");
            } else {
                page.sample(line);
            }
        }
        page
    }

    #[track_caller]
    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let name = series.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_typed = |name: &str| self.types.contains_key(name);
        assert!(is_typed(name) || family.is_some_and(is_typed), "no type: {line}");
        assert!(self.series.insert(series.into(), value).is_none(), "twice: {line}");
    }

    /// The value of a series; 0 where there is none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).iter().map(|(_, value)| value).sum()
    }

    /// All series of this name that have these labels, and maybe others.
    #[must_use]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&str, f64)> {
        let has = |series: &str| {
            series.split('{').next() == Some(name)
                && labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
        };
        self.series.iter().filter(|(series, _)| has(series)).map(|(series, value)| (series.as_str(), *value)).collect()
    }

    /// Every series of a name that begins so.
    #[must_use]
    pub fn beginning(&self, prefix: &str) -> Vec<&str> {
        self.series.keys().map(String::as_str).filter(|series| series.starts_with(prefix)).collect()
    }

    /// The type of a metric, as the page says.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// Whether the page says what the metric means.
    #[must_use]
    pub fn is_described(&self, name: &str) -> bool {
        self.described.contains(name)
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series.iter().try_for_each(|(series, value)| writeln!(f, "{series} {value}"))
    }
}

fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

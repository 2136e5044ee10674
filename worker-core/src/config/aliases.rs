//! The broker, named by variables that are not ours.
//!
//! Where neither `--broker` nor `WORKER_BROKER_URL` is set, it is taken from
//! the first of these that is there:
//!
//! 1. the credential `broker-url` of systemd (`LoadCredential=`);
//! 2. `RABBITMQ_URL`, `AMQP_URL`, `CLOUDAMQP_URL`, or the file of `RABBITMQ_URL_FILE`, …;
//! 3. the parts `RABBITMQ_HOST`, `RABBITMQ_USER`, … that many programs read.
//!
//! These variables belong to others too: RabbitMQ itself, its images, Kubernetes.
//! What we do not know is therefore let alone, and nothing here concerns a
//! program whose broker is set.

use std::{collections::BTreeMap, ffi::OsString, io, path::PathBuf};

use crate::config::{
    Origin,
    given::{Given, Source, cut},
    parts,
    read::{Variable, content, is_of_kubernetes, unreadable},
    table,
};

/// The variables with a whole URL, the winner first.
const URLS: [&str; 3] = ["RABBITMQ_URL", "AMQP_URL", "CLOUDAMQP_URL"];

/// What they may hold.
const FORM: &str = "an `amqp://` or `amqps://` URL";

/// Why a program that cannot use them ignores them all.
const WITHOUT: &str = "this program was built without the feature `rabbitmq` of worker-core";

/// What the variables with a part of the address begin with.
const PREFIX: &str = "RABBITMQ_";

/// Where systemd puts the credentials of a service, and the name of ours.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIAL: &str = "broker-url";

/// The variables that may name a broker.
#[derive(Default)]
pub(super) struct Aliases {
    credentials: Option<PathBuf>,
    values: BTreeMap<String, OsString>,
    /// Set by Kubernetes beside a Service called `rabbitmq`.
    injected: Vec<String>,
}

impl Aliases {
    /// Keeps the variable if it may name a broker.
    pub(super) fn sort(&mut self, name: &str, value: OsString) {
        let stem = name.strip_suffix("_FILE").unwrap_or(name);
        let rest = name.strip_prefix(PREFIX);
        if name == CREDENTIALS {
            self.credentials = Some(value.into());
        } else if rest.is_some_and(|rest| is_of_kubernetes(rest, &value.to_string_lossy())) {
            self.injected.push(cut(name));
        } else if URLS.contains(&stem) || rest.is_some() {
            self.values.insert(name.into(), value);
        }
    }

    /// Names the broker where nothing of ours does, and says what that leaves out of account.
    pub(super) fn resolve(&self, given: &mut Given) {
        let chosen = given.texts.get(table::BROKER_URL.variable).cloned();
        if chosen.as_ref().is_some_and(|source| source.origin == Origin::Flag) {
            return; // Whoever types it knows what it is instead of.
        }
        let parts = parts::used(&self.values);
        match self.url(chosen, given) {
            Some(chosen) => {
                if cfg!(feature = "rabbitmq") && !parts.is_empty() {
                    given.warnings.push(ignored(&parts, &format!("{} says where the jobs are", chosen.name)));
                }
                match problem(&chosen) {
                    None => drop(given.texts.insert(table::BROKER_URL.variable, chosen)),
                    Some(problem) => given.problems.push(problem),
                }
            }
            None if cfg!(feature = "rabbitmq") => {
                if !self.injected.is_empty() {
                    let why = "Kubernetes sets such variables for a Service whose name begins with `rabbitmq`; \
                               `enableServiceLinks: false` in the pod's spec stops that";
                    given.warnings.push(ignored(&self.injected, why));
                }
                parts::take(&self.values, given);
            }
            None if self.values.contains_key(parts::HOST) => given.warnings.push(ignored(&parts, WITHOUT)),
            None => {}
        }
    }

    /// The URL that wins, if there is one: `chosen` or one of the others.
    fn url(&self, mut chosen: Option<Source>, given: &mut Given) -> Option<Source> {
        match self.credential() {
            Ok(credential) => prefer(&mut chosen, credential, given),
            Err(_) if chosen.is_some() => {}
            Err(problem) => given.problems.push(problem),
        }
        for name in URLS {
            let file = self.values.get(&format!("{name}_FILE"));
            let variable = Variable { name, value: self.values.get(name), file };
            let source = match variable.source(FORM) {
                Ok(Some(source)) => source,
                Ok(None) => continue,
                Err(_) if chosen.is_some() || cfg!(not(feature = "rabbitmq")) => continue,
                Err(problem) => {
                    given.problems.push(problem);
                    continue;
                }
            };
            if cfg!(not(feature = "rabbitmq")) {
                if chosen.is_none() {
                    given.warnings.push(ignored(&[source.name], WITHOUT));
                }
                continue;
            }
            prefer(&mut chosen, Some(source), given);
        }
        chosen
    }

    /// What systemd's `LoadCredential=broker-url:FILE` gives.
    fn credential(&self) -> Result<Option<Source>, String> {
        let Some(path) = self.credentials.as_ref().map(|folder| folder.join(CREDENTIAL)) else {
            return Ok(None);
        };
        match content(&path) {
            Ok(text) => {
                let name = format!("the credential {CREDENTIAL} ({})", path.display());
                Ok(Some(Source::new(text, Origin::File(path), name)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(CREDENTIALS, &path, &error)),
        }
    }
}

/// Chooses `other` where nothing is chosen, and warns where that would be something else.
fn prefer(chosen: &mut Option<Source>, other: Option<Source>, given: &mut Given) {
    let Some(other) = other else { return };
    match chosen {
        None => *chosen = Some(other),
        Some(chosen) if chosen.text.trim() == other.text.trim() => {}
        Some(chosen) => {
            given.warnings.push(ignored(&[other.name], &format!("{} says where the jobs are", chosen.name)));
        }
    }
}

/// What is wrong with a URL of [`URLS`], beyond what is wrong with any.
fn problem(source: &Source) -> Option<String> {
    let text = source.text.trim().to_ascii_lowercase();
    let name = &source.name;
    if !URLS.iter().any(|url| name.starts_with(url)) {
        return None;
    }
    if text.is_empty() {
        return Some(format!("{name} is empty; use {FORM}, or leave it out"));
    }
    let is_amqp = text.starts_with("amqp:") || text.starts_with("amqps:");
    (!is_amqp).then(|| {
        format!("{name} holds no `amqp://` or `amqps://` URL; name another broker in {}", table::BROKER_URL.variable)
    })
}

/// The warning about variables that change nothing.
pub(super) fn ignored(names: &[String], why: &str) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb} ignored: {why}", names.join(", "))
}

#[cfg(all(test, not(feature = "rabbitmq")))]
mod tests {
    use crate::config::SettingsReader;

    #[test]
    fn a_program_without_rabbitmq_keeps_its_file_and_says_so() {
        let read = |environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
            let settings = SettingsReader::new().read(environment).unwrap();
            (settings.broker_url.to_string(), settings.warnings().to_vec())
        };
        for variable in ["RABBITMQ_URL", "RABBITMQ_HOST"] {
            let (url, warnings) = read(&[(variable, "amqp://u:hunter2@h"), ("RABBITMQ_SERVICE_HOST", "10.0.0.1")]);
            assert_eq!(url, "sqlite:jobs.db");
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains("is ignored: this program was built without"), "{warnings:?}");
            assert!(!warnings[0].contains("hunter2"), "{warnings:?}");
        }
        let (_, warnings) = read(&[("RABBITMQ_HOST", "h"), ("AMQP_URL", ""), ("WORKER_BROKER_URL", "memory:")]);
        assert_eq!(warnings, [""; 0]);
    }
}

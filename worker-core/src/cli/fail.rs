//! Why a command ended early: what to say, what to do about it, and the exit code.

use std::{fmt::Display, io};

use crate::{
    cli::{
        exit,
        out::{bold, escape_lines, say},
    },
    error::{BrokerError, BrokerErrorKind, ConfigError, ConnectError, EnqueueError, EnqueueErrorKind, RunError},
};

/// Why a command ended early.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fail {
    pub(super) code: u8,
    pub(super) message: Option<String>,
    hint: Option<String>,
}

impl Fail {
    /// Ends with `code` after saying `message`.
    pub(super) fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: Some(message.to_string()), hint: None }
    }

    /// A mistake on the command line.
    pub(super) fn usage(message: impl Display) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// Ends with `code` and says nothing, because everything was said.
    pub(super) const fn silent(code: u8) -> Self {
        Self { code, message: None, hint: None }
    }

    /// With what to do about it.
    pub(super) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says it; the exit code.
    pub(super) fn report(&self) -> u8 {
        if let Some(message) = &self.message {
            say(format_args!("{} {}", bold("error:"), escape_lines(message)));
        }
        if let Some(hint) = &self.hint {
            say(format_args!("{} {}", bold("hint:"), escape_lines(hint)));
        }
        self.code
    }
}

impl From<ConfigError> for Fail {
    fn from(error: ConfigError) -> Self {
        match error.problems() {
            [problem] => Self::new(exit::CONFIG, problem),
            problems => Self::new(
                exit::CONFIG,
                format_args!("the configuration has {} problems:\n  - {}", problems.len(), problems.join("\n  - ")),
            ),
        }
    }
}

impl From<BrokerError> for Fail {
    fn from(error: BrokerError) -> Self {
        let code = match error.kind() {
            BrokerErrorKind::Unsupported => exit::FAILURE,
            _ => exit::UNAVAILABLE,
        };
        Self::new(code, error.detail())
    }
}

impl From<ConnectError> for Fail {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Config(error) => error.into(),
            ConnectError::Broker(error) => error.into(),
        }
    }
}

impl From<RunError> for Fail {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Config(error) => error.into(),
            RunError::Broker(error) => error.into(),
        }
    }
}

impl From<EnqueueError> for Fail {
    fn from(error: EnqueueError) -> Self {
        let code = match error.kind() {
            EnqueueErrorKind::Invalid => exit::BAD_PAYLOAD,
            EnqueueErrorKind::Unavailable | EnqueueErrorKind::Unroutable => exit::UNAVAILABLE,
            EnqueueErrorKind::Indeterminate => exit::PARTIAL,
            EnqueueErrorKind::Refused | EnqueueErrorKind::Unsupported => exit::FAILURE,
        };
        Self::new(code, &error)
    }
}

/// A failed write to standard output.
impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader has seen enough, as `| head` does.
            io::ErrorKind::BrokenPipe => Self::silent(exit::OK),
            _ => Self::new(exit::FAILURE, format_args!("standard output: {error}")),
        }
    }
}

//! Errors as clients see them: a code that never changes, a message for people, and the exit status of `margay`.

use serde::{Deserialize, Serialize};

/// Stable codes of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The command was understood and could not be done.
    Failed,
    /// The request is no JSON object with a `command`.
    BadRequest,
    /// The request is longer than a request may be.
    RequestTooLarge,
    /// There is no such command.
    UnknownCommand,
    /// An argument is missing, unknown or cannot be used.
    BadArgument,
    /// What the command speaks of does not exist.
    NotFound,
    /// No daemon answers on the socket.
    NotReachable,
    /// The user may not do this.
    NotPermitted,
    /// The configuration cannot be used.
    BadConfiguration,
    /// An access list cannot be used.
    BadAcl,
    /// What was expected is not so.
    NotMet,
    /// Too many clients or dumps at a time.
    Busy,
    /// The daemon is starting or ending.
    NotReady,
}

impl Code {
    /// The exit status of `margay`.
    pub fn exit(self) -> u8 {
        match self {
            Code::Failed | Code::Busy | Code::NotReady | Code::BadRequest | Code::RequestTooLarge => 1,
            Code::UnknownCommand | Code::BadArgument => 2,
            Code::NotFound => 3,
            Code::NotReachable => 4,
            Code::NotPermitted => 5,
            Code::BadConfiguration | Code::BadAcl => 6,
            Code::NotMet => 7,
        }
    }
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    /// `margay.error/1`.
    pub schema: String,
    /// What kind of error it is.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// What would mend it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl ErrorBody {
    /// An error without advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            schema: "margay.error/1".to_owned(),
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// The same error with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One line of JSON, with its end.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

//! The head of an HTTP request: what is wanted, or why it is refused.

/// Most bytes of a request's head.
pub const MAX_HEAD: usize = 8 * 1024;
/// Most header lines.
const MAX_HEADERS: usize = 64;

/// What a request that is served wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `GET /metrics`.
    Metrics,
    /// `HEAD /metrics`: the same without a body.
    Head,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is no HTTP request.
    BadRequest,
    /// It wants another path.
    NotFound,
    /// It is neither `GET` nor `HEAD`.
    Method,
    /// Its head is too long, or has too many lines.
    TooLarge,
    /// Its head was not complete in time.
    Timeout,
    /// Too many clients at a time.
    Busy,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 6] = [
        Refusal::BadRequest,
        Refusal::NotFound,
        Refusal::Method,
        Refusal::TooLarge,
        Refusal::Timeout,
        Refusal::Busy,
    ];

    /// Stable name: the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::BadRequest => "bad_request",
            Refusal::NotFound => "not_found",
            Refusal::Method => "method",
            Refusal::TooLarge => "too_large",
            Refusal::Timeout => "timeout",
            Refusal::Busy => "busy",
        }
    }

    /// The status line's number and words (RFC 9110 15).
    pub fn status(self) -> &'static str {
        match self {
            Refusal::BadRequest => "400 Bad Request",
            Refusal::NotFound => "404 Not Found",
            Refusal::Method => "405 Method Not Allowed",
            Refusal::TooLarge => "431 Request Header Fields Too Large",
            Refusal::Timeout => "408 Request Timeout",
            Refusal::Busy => "503 Service Unavailable",
        }
    }
}

/// Reads the head of a request: `None` while it is not complete. Never panics, whatever the bytes are.
pub fn request(bytes: &[u8]) -> Option<Result<Wanted, Refusal>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Err(Refusal::TooLarge));
        }
        Err(_) => return Some(Err(Refusal::BadRequest)),
    }
    let wanted = match request.method {
        Some("GET") => Wanted::Metrics,
        Some("HEAD") => Wanted::Head,
        _ => return Some(Err(Refusal::Method)),
    };
    let path = request.path.unwrap_or_default().split('?').next();
    Some(if path == Some("/metrics") {
        Ok(wanted)
    } else {
        Err(Refusal::NotFound)
    })
}

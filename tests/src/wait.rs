//! Waiting for a described condition with a time limit: labs never sleep blindly.

use std::time::{Duration, Instant};

/// How long a lab waits for what should take well under a second. Generous, because the machine may be busy with other things.
pub const LIMIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(25);

/// What a condition may answer: `bool`, `Option<T>`, or `Result<T, String>` whose error says what is still missing.
pub trait Answer {
    /// What the wait is for.
    type Value;
    /// `Err` while it is not there yet.
    ///
    /// # Errors
    /// What is still missing.
    fn answer(self) -> Result<Self::Value, String>;
}

impl Answer for bool {
    type Value = ();
    fn answer(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(String::new)
    }
}

impl<T> Answer for Option<T> {
    type Value = T;
    fn answer(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T> Answer for Result<T, String> {
    type Value = T;
    fn answer(self) -> Self {
        self
    }
}

/// Asks `condition` again and again until it is met.
///
/// # Panics
/// When it is not met within `limit`, with the description and what was last missing.
#[track_caller]
pub fn wait_for<A: Answer>(description: &str, limit: Duration, mut condition: impl FnMut() -> A) -> A::Value {
    let start = Instant::now();
    loop {
        match condition().answer() {
            Ok(value) => return value,
            Err(missing) if start.elapsed() >= limit => {
                panic!(
                    "waited {:.1} s in vain for: {description}. {missing}",
                    limit.as_secs_f64()
                )
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Checks that `condition` does not come true for as long as `period`: for what must not happen, where no event can be waited for.
///
/// # Panics
/// When it comes true.
#[track_caller]
pub fn never(description: &str, period: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < period {
        assert!(!condition(), "must not happen: {description}");
        std::thread::sleep(PAUSE);
    }
}

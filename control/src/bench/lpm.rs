//! `margay bench lpm`.

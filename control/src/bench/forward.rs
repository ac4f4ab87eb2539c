//! `margay bench forward`.

//! `margay doctor`.

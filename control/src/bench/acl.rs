//! `margay bench acl`.

//! The kernel mirror: rtnetlink messages to FIB entries.

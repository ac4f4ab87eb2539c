//! Kernel settings that Margay reads or, marked and undone at the end, changes.

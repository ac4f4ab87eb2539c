//! What a compiled list may cost, and what is said when it would cost more.

/// What a compiled list may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the image of one list may take.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 512 << 20 }
    }
}

/// Why a list could not be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompileError {
    /// The image would take more than the limit.
    Memory {
        /// Name of the list.
        list: String,
        /// Rules in the list.
        rules: usize,
        /// Bytes wanted when compiling was given up.
        needed: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The rules have more distinct conditions on ports, protocol, flags, ICMP types, fragment and DSCP, taken together, than
    /// an image can number.
    Conditions {
        /// Name of the list.
        list: String,
        /// Distinct conditions of the list.
        distinct: usize,
        /// Distinct conditions that an image can number.
        limit: usize,
    },
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CompileError::Memory {
                list,
                rules,
                needed,
                limit,
            } => {
                write!(
                    f,
                    "list \"{list}\" with {rules} rules does not fit {} MiB",
                    limit >> 20
                )?;
                if *needed != usize::MAX {
                    write!(f, " ({} MiB when given up)", needed >> 20)?;
                }
                f.write_str(
                    "; split the list, put prefixes that share their rules into sets, or use fewer port ranges",
                )
            }
            CompileError::Conditions {
                list,
                distinct,
                limit,
            } => write!(
                f,
                "list \"{list}\" has {distinct} distinct conditions on ports, protocol, flags, types, fragment and DSCP; \
                 at most {limit} fit; split the list"
            ),
        }
    }
}

impl std::error::Error for CompileError {}

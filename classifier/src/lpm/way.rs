//! Which instructions look-ups use: chosen once, by what the processor has.

/// Which instructions a burst uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Plain Rust, for every processor.
    Scalar,
    /// AVX2, BMI2 and POPCNT (x86-64-v3): leaves by scalar loads and `shrx`/`popcnt`, lists by one comparison.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL, VPOPCNTDQ): leaves and tables by gathers, lists by one comparison.
    Avx512,
}

impl Way {
    /// All of them, for tests and benchmarks.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// Whether this processor has the instructions.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vpopcntdq")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest way of this processor for IPv4.
    ///
    /// A gather of AMD's Zen 4 and Zen 5 takes longer than the loads it stands for (measured: 0.3 ns an element on Zen 5,
    /// so that the gathering way reaches little more than half of the scalar loads' speed), so the AVX-512 way is left to others.
    #[must_use]
    pub fn best_v4() -> Self {
        if Self::Avx512.available() && !is_amd() {
            Self::Avx512
        } else if Self::Avx2.available() {
            Self::Avx2
        } else {
            Self::Scalar
        }
    }

    /// The fastest way of this processor for IPv6. Its gathers are from tables whose misses overlap: those win on AMD, too.
    #[must_use]
    pub fn best_v6() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|way| way.available())
            .unwrap_or(Self::Scalar)
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

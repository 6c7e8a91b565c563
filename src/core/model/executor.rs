//! Executor classes and manifests.

use std::fmt;
use std::str::FromStr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::lenient::Integer;

/// The exit code of an executor whose machine is not fit for another job until somebody has looked after it.
pub const UNHEALTHY: u8 = 11;

/// A hardware class of executors (wire-dynamic-config §5).
///
/// An unknown class makes a whole message invalid, on every wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ExecutorClass {
    /// 24 GB of GPU memory, started on demand within four minutes.
    #[serde(rename = "spin_up-4min.gpu-24gb")]
    SpinUp4MinGpu24Gb,
    /// 24 GB of GPU memory, always on.
    #[serde(rename = "always_on.gpu-24gb")]
    AlwaysOnGpu24Gb,
    /// An RTX A6000 for language models, always on.
    #[serde(rename = "always_on.llm.a6000")]
    AlwaysOnLlmA6000,
    /// A class for tests; no GPU.
    #[serde(rename = "always_on.test")]
    AlwaysOnTest,
    /// Eight cores and 16 GB of memory; no GPU.
    #[serde(rename = "always_on.cpu.8c.16gb")]
    AlwaysOnCpu8C16Gb,
}

/// A text that names no executor class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown executor class {0:?} (known: {known})", known = ExecutorClass::ALL.map(ExecutorClass::as_str).join(", "))]
pub struct UnknownExecutorClass(pub String);

impl ExecutorClass {
    /// Every class, in the order of the reference.
    pub const ALL: [Self; 5] = [
        Self::SpinUp4MinGpu24Gb,
        Self::AlwaysOnGpu24Gb,
        Self::AlwaysOnLlmA6000,
        Self::AlwaysOnTest,
        Self::AlwaysOnCpu8C16Gb,
    ];

    /// The class of a request that names none.
    pub const DEFAULT: Self = Self::SpinUp4MinGpu24Gb;

    /// Returns the class as the wires write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpinUp4MinGpu24Gb => "spin_up-4min.gpu-24gb",
            Self::AlwaysOnGpu24Gb => "always_on.gpu-24gb",
            Self::AlwaysOnLlmA6000 => "always_on.llm.a6000",
            Self::AlwaysOnTest => "always_on.test",
            Self::AlwaysOnCpu8C16Gb => "always_on.cpu.8c.16gb",
        }
    }

    /// Returns how long a validator waits for an executor of this class to start, in seconds, before the
    /// start-up limit is added.
    pub const fn spin_up_seconds(self) -> i64 {
        match self {
            Self::SpinUp4MinGpu24Gb => 240,
            Self::AlwaysOnGpu24Gb | Self::AlwaysOnTest => 3,
            Self::AlwaysOnLlmA6000 | Self::AlwaysOnCpu8C16Gb => 30,
        }
    }

    /// Returns whether jobs of this class get all GPUs of the machine.
    pub const fn has_gpu(self) -> bool {
        match self {
            Self::SpinUp4MinGpu24Gb | Self::AlwaysOnGpu24Gb | Self::AlwaysOnLlmA6000 => true,
            Self::AlwaysOnTest | Self::AlwaysOnCpu8C16Gb => false,
        }
    }
}

impl fmt::Display for ExecutorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ExecutorClass {
    type Err = UnknownExecutorClass;

    fn from_str(text: &str) -> Result<Self, UnknownExecutorClass> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| UnknownExecutorClass(text.to_owned()))
    }
}

/// How many executors of each class a miner offers, in the order in which it lists them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Manifest(pub IndexMap<ExecutorClass, i64>);

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, (class, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {class}")?;
        }
        Ok(())
    }
}

impl Manifest {
    /// Returns the offered count; 0 for a class that is not listed or listed with a negative count.
    pub fn count(&self, class: ExecutorClass) -> i64 {
        self.0.get(&class).copied().unwrap_or(0).max(0)
    }

    /// Returns whether the class is listed at all, be it with 0.
    pub fn lists(&self, class: ExecutorClass) -> bool {
        self.0.contains_key(&class)
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = IndexMap::<String, Integer>::deserialize(deserializer)?;
        counts
            .into_iter()
            .map(|(class, Integer(count))| Ok((class.parse().map_err(D::Error::custom)?, count)))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromIterator<(ExecutorClass, i64)> for Manifest {
    fn from_iter<I: IntoIterator<Item = (ExecutorClass, i64)>>(counts: I) -> Self {
        Self(counts.into_iter().collect())
    }
}

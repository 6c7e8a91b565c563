//! The NVIDIA GPUs of a machine: a port, and NVML behind it.

use std::ffi::OsStr;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::error::NvmlError;

/// The library's name as drivers install it; the name without the number belongs to development packages.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What NVIDIA's own tool writes for what a device does not tell.
const NOT_TOLD: &str = "[N/A]";

/// Bytes of a mebibyte.
const MEBIBYTE: u64 = 1024 * 1024;

/// A GPU, in the words of NVIDIA's own tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `NVIDIA RTX A6000`.
    pub name: String,
    /// The driver's version.
    pub driver: String,
    /// Its memory, in MiB.
    pub capacity: String,
    /// Its compute capability, such as `8.6`.
    pub cuda: String,
    /// The most that it may draw, in W with two digits.
    pub power_limit: String,
    /// The pace of its cores now, in MHz.
    pub graphics_speed: String,
    /// The pace of its memory now, in MHz.
    pub memory_speed: String,
    /// Its identifier.
    pub uuid: String,
    /// Its serial number.
    pub serial: String,
}

/// How a GPU is used at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its identifier.
    pub uuid: String,
    /// Memory in use, in bytes.
    pub used_bytes: u64,
    /// The processes that compute on it, as the host numbers them.
    pub processes: Vec<u32>,
}

/// Why GPUs could not be asked, though there is a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not ask NVML for {what}: {why}")]
pub struct GpuError {
    /// What it was asked for.
    pub what: &'static str,
    /// Its words.
    pub why: String,
}

/// The GPUs of a machine; calls block, for a second or two when nobody else uses the driver.
pub trait Gpus: fmt::Debug + Send + Sync {
    /// Returns whether a driver's library is there; without one there are no GPUs.
    fn has_library(&self) -> bool;

    /// Returns all GPUs; none when there is no library.
    fn devices(&self) -> Result<Vec<Device>, GpuError>;

    /// Returns how all GPUs are used, in the same order; none when there is no library.
    fn usage(&self) -> Result<Vec<Usage>, GpuError>;
}

/// NVML, the driver's own library; loaded at the first question.
#[derive(Debug, Default)]
pub struct NvmlGpus {
    library: Mutex<Option<Nvml>>,
}

impl NvmlGpus {
    /// Returns the library's GPUs; nothing is loaded yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses the library; none when it is not there.
    fn with<T>(&self, what: impl FnOnce(&Nvml) -> Result<T, GpuError>) -> Result<Option<T>, GpuError> {
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let nvml = match library.take() {
            Some(nvml) => nvml,
            None => match Nvml::builder().lib_path(OsStr::new(LIBRARY)).init() {
                Ok(nvml) => nvml,
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(asking("itself")(error)),
            },
        };
        let answer = what(&nvml);
        *library = Some(nvml);
        answer.map(Some)
    }
}

/// Returns whether there is no library, as opposed to one that does not work.
fn is_absent(error: &NvmlError) -> bool {
    match error {
        NvmlError::LibraryNotFound => true,
        NvmlError::LibloadingError(loading) => loading.to_string().contains("No such file or directory"),
        _ => false,
    }
}

impl Gpus for NvmlGpus {
    fn has_library(&self) -> bool {
        !matches!(self.with(|_| Ok(())), Ok(None))
    }

    fn devices(&self) -> Result<Vec<Device>, GpuError> {
        let devices = self.with(|nvml| {
            let driver = nvml
                .sys_driver_version()
                .map_err(asking("the driver's version"))?;
            let count = nvml.device_count().map_err(asking("the number of GPUs"))?;
            (0..count).map(|index| device(nvml, index, &driver)).collect()
        });
        devices.map(Option::unwrap_or_default)
    }

    fn usage(&self) -> Result<Vec<Usage>, GpuError> {
        let usage = self.with(|nvml| {
            let count = nvml.device_count().map_err(asking("the number of GPUs"))?;
            (0..count).map(|index| usage(nvml, index)).collect()
        });
        usage.map(Option::unwrap_or_default)
    }
}

fn device(nvml: &Nvml, index: u32, driver: &str) -> Result<Device, GpuError> {
    let device = nvml.device_by_index(index).map_err(asking("a GPU"))?;
    let mhz = |answer: Result<u32, NvmlError>| told(answer, "a clock", |mhz| mhz.to_string());
    Ok(Device {
        name: device.name().map_err(asking("a GPU's name"))?,
        driver: driver.to_owned(),
        capacity: (device.memory_info().map_err(asking("a GPU's memory"))?.total / MEBIBYTE).to_string(),
        cuda: told(device.cuda_compute_capability(), "a GPU's capability", |cuda| {
            format!("{}.{}", cuda.major, cuda.minor)
        })?,
        power_limit: told(
            device.enforced_power_limit(),
            "a GPU's power limit",
            |milliwatts| format!("{}.{:02}", milliwatts / 1000, milliwatts % 1000 / 10),
        )?,
        graphics_speed: mhz(device.clock_info(Clock::Graphics))?,
        memory_speed: mhz(device.clock_info(Clock::Memory))?,
        uuid: device.uuid().map_err(asking("a GPU's identifier"))?,
        serial: told(device.serial(), "a GPU's serial number", |serial| serial)?,
    })
}

fn usage(nvml: &Nvml, index: u32) -> Result<Usage, GpuError> {
    let device = nvml.device_by_index(index).map_err(asking("a GPU"))?;
    let processes = device
        .running_compute_processes()
        .map_err(asking("a GPU's processes"))?;
    Ok(Usage {
        uuid: device.uuid().map_err(asking("a GPU's identifier"))?,
        used_bytes: device.memory_info().map_err(asking("a GPU's memory"))?.used,
        processes: processes.iter().map(|process| process.pid).collect(),
    })
}

/// Writes an answer; consumer cards do not tell everything.
fn told<T>(
    answer: Result<T, NvmlError>,
    what: &'static str,
    write: impl FnOnce(T) -> String,
) -> Result<String, GpuError> {
    match answer {
        Ok(answer) => Ok(write(answer)),
        Err(NvmlError::NotSupported | NvmlError::NoPermission) => Ok(NOT_TOLD.to_owned()),
        Err(error) => Err(asking(what)(error)),
    }
}

fn asking(what: &'static str) -> impl FnOnce(NvmlError) -> GpuError {
    move |error| GpuError {
        what,
        why: error.to_string(),
    }
}

#[cfg(test)]
pub(in crate::core) mod play {
    //! GPUs that a test plays.

    use super::{Device, GpuError, Gpus, Mutex, Usage};

    /// Answers in turn; the last one stays.
    #[derive(Debug, Default)]
    pub(in crate::core) struct PlayedGpus {
        pub(in crate::core) devices: Vec<Device>,
        pub(in crate::core) usage: Mutex<Vec<Result<Vec<Usage>, GpuError>>>,
    }

    impl Gpus for PlayedGpus {
        fn has_library(&self) -> bool {
            !self.devices.is_empty()
        }

        fn devices(&self) -> Result<Vec<Device>, GpuError> {
            Ok(self.devices.clone())
        }

        fn usage(&self) -> Result<Vec<Usage>, GpuError> {
            let mut answers = self.usage.lock().unwrap();
            if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers.first().cloned().unwrap_or_else(|| Ok(Vec::new()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True also where there are GPUs; where there are none, that must not be an error.
    #[test]
    fn a_machine_without_the_library_has_no_gpus() {
        let gpus = NvmlGpus::new();
        if !gpus.has_library() {
            assert_eq!(gpus.devices(), Ok(Vec::new()));
            assert_eq!(gpus.usage(), Ok(Vec::new()));
        }
    }
}

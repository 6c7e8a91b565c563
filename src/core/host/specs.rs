//! What the machine is made of, in the words of the wire (wire-executor-miner §11).

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::gpu::{Device, GpuError, Gpus};

/// Bytes of a kibibyte.
const KIBIBYTE: u64 = 1024;

/// What is written behind the name of a section that could not be read.
const ERROR_SUFFIX: &str = "_scrape_error";

/// The facts, by section.
pub type Specs = Map<String, Value>;

/// Reads everything; blocks. A section that cannot be read stays empty and is followed by its error.
///
/// `disk` is a folder on the file system that jobs use; `system` is what the engine calls the operating system,
/// which is the host's also when this process is in a container.
pub fn read(gpus: &dyn Gpus, disk: &Path, system: &str) -> Specs {
    let mut specs = Specs::new();
    let mut section = |name: &str, empty: Value, read: Result<Value, String>| {
        let (value, error) = match read {
            Ok(value) => (value, None),
            Err(error) => (empty, Some(error)),
        };
        specs.insert(name.to_owned(), value);
        if let Some(error) = error {
            specs.insert(format!("{name}{ERROR_SUFFIX}"), error.into());
        }
    };
    let no_gpus = json!({ "count": 0, "details": [] });
    section("gpu", no_gpus, gpu(gpus.devices()));
    let kind = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_frequency())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let machine = System::new_with_specifics(kind);
    section(
        "cpu",
        json!({ "count": 0, "model": "", "clocks": [] }),
        cpu(&machine),
    );
    section(
        "ram",
        json!({ "available": 0, "free": 0, "total": 0, "used": 0 }),
        ram(&machine),
    );
    section(
        "hard_disk",
        json!({ "total": 0, "used": 0, "free": 0 }),
        hard_disk(disk),
    );
    let system = if system.is_empty() {
        operating_system()
    } else {
        Ok(Value::from(system))
    };
    section("os", Value::from(""), system);
    specs
}

fn gpu(devices: Result<Vec<Device>, GpuError>) -> Result<Value, String> {
    let devices = devices.map_err(|error| error.to_string())?;
    let details: Vec<Value> = devices
        .into_iter()
        .map(|device| {
            json!({
                "name": device.name, "driver": device.driver, "capacity": device.capacity, "cuda": device.cuda,
                "power_limit": device.power_limit, "graphics_speed": device.graphics_speed,
                "memory_speed": device.memory_speed, "uuid": device.uuid, "serial": device.serial,
            })
        })
        .collect();
    Ok(json!({ "count": details.len(), "details": details }))
}

fn cpu(machine: &System) -> Result<Value, String> {
    let cpus = machine.cpus();
    let first = cpus.first().ok_or("the kernel names no processor")?;
    // Whole MHz are what the kernel's interface gives; the wire wants a number with a fraction.
    let clocks: Vec<f64> = cpus
        .iter()
        .map(|cpu| f64::from(u32::try_from(cpu.frequency()).unwrap_or(u32::MAX)))
        .collect();
    Ok(json!({ "count": cpus.len(), "model": first.brand(), "clocks": clocks }))
}

fn ram(machine: &System) -> Result<Value, String> {
    let total = machine.total_memory();
    if total == 0 {
        return Err("the kernel names no memory".to_owned());
    }
    let free = machine.free_memory();
    Ok(json!({
        "available": machine.available_memory() / KIBIBYTE, "free": free / KIBIBYTE, "total": total / KIBIBYTE,
        "used": total.saturating_sub(free) / KIBIBYTE,
    }))
}

fn hard_disk(folder: &Path) -> Result<Value, String> {
    let facts = rustix::fs::statvfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let kibibytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize) / KIBIBYTE;
    Ok(json!({
        "total": kibibytes(facts.f_blocks), "used": kibibytes(facts.f_blocks.saturating_sub(facts.f_bfree)),
        "free": kibibytes(facts.f_bavail),
    }))
}

fn operating_system() -> Result<Value, String> {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .map(std::fs::read_to_string)
        .reduce(io::Result::or)
        .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
        .map_err(|error| format!("/etc/os-release: {error}"))?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| Value::from(name.trim_matches('"')))
        .ok_or_else(|| "/etc/os-release has no PRETTY_NAME".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::gpu::play::PlayedGpus;
    use super::*;

    #[test]
    fn the_facts_of_this_machine_have_the_names_and_units_of_the_wire() {
        let specs = read(&PlayedGpus::default(), Path::new("/"), "");
        let keys: Vec<&str> = specs.keys().map(String::as_str).collect();
        assert_eq!(keys, ["gpu", "cpu", "ram", "hard_disk", "os"]);
        assert_eq!(specs["gpu"], json!({ "count": 0, "details": [] }));
        let cpu = &specs["cpu"];
        assert!(cpu["count"].as_u64().unwrap() > 0);
        assert_eq!(
            cpu["clocks"].as_array().unwrap().len() as u64,
            cpu["count"].as_u64().unwrap()
        );
        assert!(cpu["clocks"][0].is_f64() && cpu["model"].is_string());
        for (section, names) in [
            ("ram", &["available", "free", "total", "used"][..]),
            ("hard_disk", &["total", "used", "free"][..]),
        ] {
            for name in names {
                assert!(specs[section][name].is_u64(), "{section} {name}");
            }
        }
        // KiB: between 64 MiB and 64 TiB.
        let total = specs["ram"]["total"].as_u64().unwrap();
        assert!((1 << 16..1 << 36).contains(&total), "{total}");
        assert_eq!(
            specs["ram"]["used"].as_u64().unwrap(),
            total - specs["ram"]["free"].as_u64().unwrap()
        );
        assert!(!specs["os"].as_str().unwrap().is_empty());
    }

    #[test]
    fn gpus_are_described_by_texts() {
        let gpus = PlayedGpus {
            devices: vec![Device {
                name: "NVIDIA RTX A6000".to_owned(),
                capacity: "49140".to_owned(),
                cuda: "8.6".to_owned(),
                ..Device::default()
            }],
            ..PlayedGpus::default()
        };
        let specs = read(&gpus, Path::new("/"), "Ubuntu 24.04.3 LTS");
        assert_eq!(specs["gpu"]["count"], 1);
        let details = specs["gpu"]["details"][0].as_object().unwrap();
        assert_eq!(details.len(), 9);
        assert!(details.values().all(Value::is_string));
        assert_eq!(
            (&details["capacity"], &details["cuda"]),
            (&json!("49140"), &json!("8.6"))
        );
        assert_eq!(specs["os"], "Ubuntu 24.04.3 LTS");
    }

    #[test]
    fn a_section_that_cannot_be_read_says_why_and_spares_the_others() {
        let broken = GpuError {
            what: "itself",
            why: "driver not loaded".to_owned(),
        };
        assert!(gpu(Err(broken)).unwrap_err().contains("driver not loaded"));
        let specs = read(&PlayedGpus::default(), Path::new("/no/such/folder"), "x");
        assert_eq!(specs["hard_disk"], json!({ "total": 0, "used": 0, "free": 0 }));
        assert!(
            specs["hard_disk_scrape_error"]
                .as_str()
                .unwrap()
                .contains("/no/such/folder")
        );
        assert!(specs["ram"]["total"].as_u64().unwrap() > 0);
    }
}

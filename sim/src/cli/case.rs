//! A seed with everything that decides how it runs, and the line that runs it again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::canary;
use crate::faults::Fault;
use crate::profiles::Profile;
use crate::run::Options;

/// One run, as the command line names it.
#[derive(Clone)]
pub struct Case {
    pub seed: u64,
    pub profile: &'static Profile,
    /// Simulated seconds.
    pub seconds: u64,
    /// The file of the schedule; None: the seed's own.
    pub schedule: Option<PathBuf>,
    /// The planted fault.
    pub canary: Option<String>,
}

impl Case {
    /// A seed with its own schedule and no planted fault.
    pub fn new(seed: u64, profile: &'static Profile, seconds: u64) -> Self {
        Self { seed, profile, seconds, schedule: None, canary: None }
    }

    /// What to simulate. Fails when the schedule cannot be read, or no planted fault has that name.
    pub fn options(&self) -> anyhow::Result<Options> {
        let mut options = Options::new(self.seed, self.profile, self.seconds);
        if let Some(path) = &self.schedule {
            options.schedule = Some(read_schedule(path)?);
        }
        if let Some(name) = &self.canary {
            canary::plant(name, &mut options)?;
        }
        Ok(options)
    }
}

/// The line that runs it again.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, profile, seconds, schedule, canary } = self;
        write!(f, "cargo run --release -p sim -- --seed {seed} --profile {} --seconds {seconds}", profile.name)?;
        if let Some(name) = canary {
            write!(f, " --canary {name}")?;
        }
        if let Some(path) = schedule {
            write!(f, " --schedule {}", path.display())?;
        }
        Ok(())
    }
}

/// Reads a JSON list of faults.
pub fn read_schedule(path: &Path) -> anyhow::Result<Vec<Fault>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the schedule {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a list of faults", path.display()))
}

/// Writes a JSON list of faults, one a line.
pub fn write_schedule(path: &Path, faults: &[Fault]) -> anyhow::Result<()> {
    let lines = faults.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(path, text).with_context(|| format!("writing the schedule {}", path.display()))
}

/// The commit of the source that this was built from, as far as it is still there.
pub fn commit() -> String {
    let asked =
        Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let said = asked.ok().filter(|output| output.status.success());
    let commit = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    commit.filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("foreword-schedule-{}.json", std::process::id()));
        for faults in [Options::new(8, Profile::of(8), 60).drawn_schedule(), Vec::new()] {
            write_schedule(&path, &faults).unwrap();
            assert_eq!(read_schedule(&path).unwrap(), faults);
        }
        std::fs::write(&path, "[{}]").unwrap();
        assert!(read_schedule(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(read_schedule(&path).is_err());
    }

    #[test]
    fn the_line_names_everything_that_decides() {
        let mut case = Case::new(8, Profile::of(8), 30);
        assert_eq!(case.to_string(), "cargo run --release -p sim -- --seed 8 --profile five-replicas --seconds 30");
        case.canary = Some("x".to_owned());
        case.schedule = Some("/tmp/s.json".into());
        assert!(case.to_string().ends_with(" --canary x --schedule /tmp/s.json"));
    }
}

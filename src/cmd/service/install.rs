//! `horde service unit` and `horde service install`: a role under systemd.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::unit::{Manager, Role, STATE, Unit};
use crate::cmd::context::{Context, GRACE};
use crate::cmd::error::{CmdError, ExitCode, OrFail};
use crate::core::config::{Environment, Sources, load};

pub(super) const UNIT_EXAMPLES: &str = "\
Examples:
  horde service unit miner
  horde service unit validator --user
  horde service unit facilitator --dir /srv/horde/facilitator > horde-facilitator.service";

pub(super) const INSTALL_EXAMPLES: &str = "\
Examples:
  horde service install miner --dry-run
  sudo horde service install miner
  horde service install validator --user";

/// Where the system's units of an administrator lie.
const SYSTEM_UNITS: &str = "/etc/systemd/system";

/// Folders that a service cannot look into.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What the unit is to be like.
#[derive(Args, Debug)]
pub struct UnitArgs {
    /// The role
    #[arg(value_enum)]
    role: Role,
    /// For your own manager, without root: the role runs while you are logged in, or always with `loginctl enable-linger`
    #[arg(long)]
    user: bool,
    /// Account that the role runs as, under the system's manager
    #[arg(long, value_name = "NAME", default_value = "horde", conflicts_with = "user", value_parser = account)]
    account: String,
    /// The program that is started [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// `horde service install …`
#[derive(Args, Debug)]
pub struct InstallArgs {
    #[command(flatten)]
    unit: UnitArgs,
    /// Write nothing: print what would be written, and exit with 11 if that is anything
    #[arg(long)]
    dry_run: bool,
    /// Replace a unit of the same name that says something else
    #[arg(long)]
    force: bool,
}

/// Checks the name of an account.
fn account(name: &str) -> Result<String, String> {
    let is_name = !name.is_empty()
        && name.len() <= 32
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if is_name {
        Ok(name.to_owned())
    } else {
        Err("a name of letters, digits, `_`, `-` and `.`, 32 at most".to_owned())
    }
}

/// A unit, and what comes of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Told {
    /// The name of the unit.
    name: String,
    /// Its file.
    path: PathBuf,
    /// What it says.
    text: String,
    /// What was done with the file, or would be.
    action: Action,
    /// Whether it was done.
    done: bool,
    /// What to type next.
    next: Vec<String>,
}

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// There was none.
    Create,
    /// There was one that said something else.
    Replace,
    /// There is one that says the same.
    Keep,
}

impl UnitArgs {
    /// Prints the unit.
    pub(super) fn print(&self, context: &Context) -> Result<(), CmdError> {
        let told = self.told(context)?;
        if context.wants_data() {
            return context.print_data(&told);
        }
        context.line(told.text.trim_end())
    }

    fn told(&self, context: &Context) -> Result<Told, CmdError> {
        let unit = self.unit(context)?;
        let name = self.role.unit();
        let path = self.folder(context)?.join(&name);
        let text = unit.text();
        let action = match fs::read_to_string(&path) {
            Ok(there) if there == text => Action::Keep,
            Ok(_) => Action::Replace,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Action::Create,
            Err(error) => {
                let tried = format!("could not read {}", path.display());
                return Err(CmdError::new(ExitCode::Failed, tried).caused_by(&error));
            }
        };
        Ok(Told {
            next: self.next(&unit),
            name,
            path,
            text,
            action,
            done: false,
        })
    }

    fn unit(&self, context: &Context) -> Result<Unit, CmdError> {
        let absolute = |path: &Path| {
            let path = std::path::absolute(path).or_fail(ExitCode::Usage, "a path is empty")?;
            if path.to_str().is_none_or(|path| path.contains(char::is_control)) {
                let words = format!("{} cannot stand in a unit", path.display());
                return Err(CmdError::new(ExitCode::Usage, words));
            }
            Ok(path)
        };
        let program = match &self.program {
            Some(program) => absolute(program)?,
            None => {
                std::env::current_exe().or_fail(ExitCode::Failed, "could not find this program's file")?
            }
        };
        if !self.user && HOMES.iter().any(|home| program.starts_with(home)) {
            context.say(format_args!(
                "note: {} lies in a home directory, into which the service cannot look: copy it, and name the copy by \
                 --program, as in /usr/local/bin/horde",
                program.display()
            ));
        }
        let given = context.dir().map(|dir| absolute(dir)).transpose()?;
        let dir = given.or_else(|| (!self.user).then(|| Path::new(STATE).join(self.role.word())));
        let config = context.config_file().map(|file| absolute(file)).transpose()?;
        // As the service will see them: without this shell's variables.
        let settings = load(&Sources {
            scope: self.role.scope(),
            environment: &Environment::default(),
            dir: Some(dir.clone().unwrap_or_else(|| PathBuf::from(STATE))),
            config: config.clone(),
            context: None,
            flags: Vec::new(),
        })?;
        let drain = match self.role {
            Role::Miner => settings.duration("miner.drain_seconds")?,
            Role::Facilitator | Role::Validator => std::time::Duration::ZERO,
        };
        let manager = if self.user {
            Manager::User
        } else {
            Manager::System {
                account: self.account.clone(),
            }
        };
        Ok(Unit {
            role: self.role,
            manager,
            program,
            dir,
            config,
            // What is left after the role's grace is given the same time again.
            grace: drain + GRACE + GRACE,
        })
    }

    fn folder(&self, context: &Context) -> Result<PathBuf, CmdError> {
        if !self.user {
            return Ok(PathBuf::from(SYSTEM_UNITS));
        }
        let home = context.environment.config_home().ok_or_else(|| {
            CmdError::new(
                ExitCode::Usage,
                "there is no home directory for a unit of your own",
            )
            .hint("set HOME or XDG_CONFIG_HOME")
        })?;
        Ok(home.join("systemd/user"))
    }

    fn next(&self, unit: &Unit) -> Vec<String> {
        let name = self.role.unit();
        match &unit.manager {
            Manager::User => vec![
                "systemctl --user daemon-reload".to_owned(),
                format!("systemctl --user enable --now {name}"),
                "loginctl enable-linger".to_owned(),
                format!("horde logs {} --follow", self.role.word()),
            ],
            Manager::System { account } => {
                let mut next = vec![format!(
                    "id {account} || useradd --system --home-dir {STATE} --shell /usr/sbin/nologin {account}"
                )];
                if self.role == Role::Miner {
                    next.push(format!("usermod --append --groups docker {account}"));
                }
                next.push("systemctl daemon-reload".to_owned());
                next.push(format!("systemctl enable --now {name}"));
                let dir = unit.dir.as_deref().unwrap_or(Path::new(STATE));
                next.push(format!("horde logs --follow --dir {}", dir.display()));
                next
            }
        }
    }
}

impl InstallArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), CmdError> {
        let mut told = self.unit.told(context)?;
        if self.dry_run {
            tell(context, &told)?;
            return match told.action {
                Action::Keep => Ok(()),
                Action::Create | Action::Replace => Err(CmdError::quiet(ExitCode::Pending)),
            };
        }
        if told.action == Action::Replace && !self.force {
            let words = format!("{} is there and says something else", told.path.display());
            return Err(CmdError::new(ExitCode::Conflict, words).hint(
                "--dry-run shows what would be written, --force replaces it; changes of your own belong into `systemctl \
                 edit`",
            ));
        }
        if told.action != Action::Keep {
            write(&told.path, &told.text).map_err(|error| {
                let tried = format!("could not write {}", told.path.display());
                if error.kind() == io::ErrorKind::PermissionDenied {
                    CmdError::new(ExitCode::Refused, tried)
                        .caused_by(&error)
                        .hint("run it as root, or with --user for a unit of your own")
                } else {
                    CmdError::new(ExitCode::Failed, tried).caused_by(&error)
                }
            })?;
        }
        told.done = true;
        tell(context, &told)
    }
}

fn tell(context: &Context, told: &Told) -> Result<(), CmdError> {
    if context.wants_data() {
        return context.print_data(told);
    }
    let path = told.path.display();
    let words = match (told.action, told.done) {
        (Action::Keep, _) => format!("{path} is as it should be"),
        (Action::Create, true) => format!("{path} is written"),
        (Action::Replace, true) => format!("{path} is replaced"),
        (Action::Create, false) => format!("{path} would be written:\n\n{}", told.text),
        (Action::Replace, false) => format!("{path} would be replaced by:\n\n{}", told.text),
    };
    context.line(words)?;
    context.say("next:");
    for command in &told.next {
        context.say(format_args!("  {command}"));
    }
    Ok(())
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    // As units are: everybody may read them.
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

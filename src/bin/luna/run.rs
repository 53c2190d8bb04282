//! `luna run`: sets the environment and becomes the program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use luna::config::{Config, DeviceSpec, SETTINGS};

use crate::{elf, show};

/// What a shell gives for a command that can't be started, and for one that does not exist.
const NOT_STARTED: u8 = 126;
const NOT_FOUND: u8 = 127;
/// A wrong configuration with `--strict`, as for wrong options.
const USAGE: u8 = 2;

#[derive(Args)]
#[command(after_help = settings_help())]
pub(crate) struct Options {
    /// TOML file with settings; options and the environment win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Link to use, like xdp:eth1
    #[arg(long, value_name = "SPEC")]
    dev: Option<OsString>,
    /// Local ports whose listeners are accelerated, like 6379,61000-61999
    #[arg(long, value_name = "PORTS")]
    listen: Option<OsString>,
    /// Destinations whose connections are accelerated, like 10.9.0.2:6379,10.9.1.0/24
    #[arg(long, value_name = "RULES")]
    connect: Option<OsString>,
    /// Local ports of accelerated connections [default: 61440-65535]
    #[arg(long, value_name = "FIRST-LAST")]
    client_ports: Option<OsString>,
    /// Who turns the stack: the calling threads, or threads of its own
    #[arg(long, value_name = "batch|dedicated")]
    mode: Option<OsString>,
    /// Stack instances, one device queue each
    #[arg(long, value_name = "N")]
    shards: Option<OsString>,
    /// Most device queues that a process takes [default: all free; a forked worker: one a shard]
    #[arg(long, value_name = "N")]
    queues: Option<OsString>,
    /// Poll for ever instead of sleeping
    #[arg(long)]
    busy: bool,
    /// Fail instead of leaving a socket on the kernel
    #[arg(long)]
    strict: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Options {
    /// The variables that the options stand for.
    fn variables(&self) -> Vec<(&'static str, OsString)> {
        // The program may change its directory before it reads the file.
        let config = self.config.as_ref().map(|path| {
            std::path::absolute(path)
                .unwrap_or_else(|_| path.clone())
                .into_os_string()
        });
        let yes = |flag: bool| flag.then(|| OsString::from("1"));
        let pairs = [
            ("LUNA_CONFIG", config),
            ("LUNA_DEV", self.dev.clone()),
            ("LUNA_LISTEN", self.listen.clone()),
            ("LUNA_CONNECT", self.connect.clone()),
            ("LUNA_CLIENT_PORTS", self.client_ports.clone()),
            ("LUNA_MODE", self.mode.clone()),
            ("LUNA_SHARDS", self.shards.clone()),
            ("LUNA_QUEUES", self.queues.clone()),
            ("LUNA_BUSY", yes(self.busy)),
            ("LUNA_STRICT", yes(self.strict)),
        ];
        pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let Some((program, arguments)) = options.command.split_first() else {
        return ExitCode::from(USAGE);
    };
    let variables = options.variables();
    let mut command = Command::new(program);
    command.args(arguments);
    match preload(&variables) {
        Ok(Prepared {
            preload: Some(preload),
            strict,
        }) => {
            let obstacle = elf::find(program).and_then(|path| elf::obstacle(&path));
            if let Some(obstacle) = obstacle {
                let program = program.to_string_lossy();
                show::note(&format!("{program} runs on the kernel alone: {obstacle}"));
                if strict {
                    return ExitCode::from(USAGE);
                }
            }
            command.envs(variables).env("LD_PRELOAD", preload);
        }
        // LUNA_DISABLE is set: nothing to add.
        Ok(Prepared { preload: None, .. }) => {}
        Err(problem) => {
            if is_strict(options) {
                show::note(&problem);
                return ExitCode::from(USAGE);
            }
            let program = program.to_string_lossy();
            show::note(&format!("{problem}; {program} runs on the kernel alone"));
            // Said once; the libraries would say it again in every process.
            command.env("LUNA_DISABLE", "1");
        }
    }
    let error = command.exec();
    show::note(&format!("{}: {error}", program.to_string_lossy()));
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    ExitCode::from(if missing { NOT_FOUND } else { NOT_STARTED })
}

struct Prepared {
    /// The value of `LD_PRELOAD`; `None` if luna is disabled.
    preload: Option<OsString>,
    strict: bool,
}

fn is_strict(options: &Options) -> bool {
    let value = std::env::var("LUNA_STRICT").ok();
    options.strict || value.is_some_and(|value| luna::config::parse_bool(&value) == Some(true))
}

/// Checks everything that can be checked before the program starts.
fn preload(variables: &[(&'static str, OsString)]) -> Result<Prepared, String> {
    let mut merged: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| !variables.iter().any(|(given, _)| OsStr::new(given) == name))
        .collect();
    merged.extend(
        variables
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone())),
    );
    let disabled = || {
        let value = std::env::var("LUNA_DISABLE").ok()?;
        luna::config::parse_bool(&value).filter(|disabled| *disabled)
    };
    let loaded = Config::load(merged).map_err(|error| error.to_string())?;
    for warning in &loaded.warnings {
        show::note(warning);
    }
    let Some(config) = loaded.config else {
        return match disabled() {
            Some(_) => Ok(Prepared {
                preload: None,
                strict: false,
            }),
            None => Err("no link is named: use --dev xdp:IFNAME, LUNA_DEV or --config FILE".into()),
        };
    };
    config
        .device
        .check_supported()
        .map_err(|error| error.to_string())?;
    check_interface(&config.device)?;
    if config.listen.is_empty() && config.connect.is_empty() {
        show::note("nothing is accelerated: neither --listen nor --connect is given");
    }
    let library =
        library().ok_or("libluna_preload.so is neither beside this command nor in ../lib")?;
    Ok(Prepared {
        preload: Some(preload_value(&library)?),
        strict: config.strict,
    })
}

#[cfg(feature = "xdp")]
fn check_interface(device: &DeviceSpec) -> Result<(), String> {
    let DeviceSpec::Xdp { interface } = device else {
        return Ok(());
    };
    let query = luna::device::xdp::interface::Interface::query(interface);
    query
        .map(drop)
        .map_err(|error| format!("LUNA_DEV: {error}"))
}

#[cfg(not(feature = "xdp"))]
fn check_interface(_: &DeviceSpec) -> Result<(), String> {
    Ok(())
}

/// The preload library that belongs to this command.
pub(crate) fn library() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let directory = own.parent()?;
    let places = [
        directory.to_path_buf(),
        directory.join("../lib"),
        directory.join("../lib64"),
    ];
    let library = places
        .into_iter()
        .map(|place| place.join("libluna_preload.so"))
        .find(|library| library.is_file())?;
    Some(library.canonicalize().unwrap_or(library))
}

/// Puts the library before those that are preloaded already.
fn preload_value(library: &std::path::Path) -> Result<OsString, String> {
    // The dynamic linker splits the list at both and knows no escape.
    if library
        .as_os_str()
        .as_bytes()
        .iter()
        .any(|byte| *byte == b' ' || *byte == b':')
    {
        let path = library.display();
        return Err(format!(
            "{path} can't be preloaded: its path has a blank or a colon"
        ));
    }
    let mut value = library.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    Ok(value)
}

fn settings_help() -> String {
    let mut text = String::from("Settings (the same in the file, in lower case without LUNA_):\n");
    for setting in SETTINGS {
        let head = format!("{}={}", setting.variable, setting.value);
        text += &format!("  {head:<34} {} [{}]\n", setting.help, setting.default);
    }
    text += "\nExample:\n  luna run --dev xdp:eth1 --listen 6379 -- redis-server --port 6379";
    text
}

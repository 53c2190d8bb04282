//! The list of settings, and how their values become a [`Config`].
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::values::{BOOL_ALLOWED, DURATION_ALLOWED};
use super::{
    Config, ConfigError, DeviceSpec, Loaded, Mode, QUEUES_MAX, SHARDS_MAX, file, parse_bool,
    parse_duration,
};
use crate::tcp::CongestionControl;
use crate::traffic::ParseRangeError;
use crate::traffic::port_range::{ConnectRules, PortSet, parse_port_range};

/// A setting, for help texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub variable: &'static str,
    /// The key in the file; empty if there is none.
    pub key: &'static str,
    /// The form of the value.
    pub value: &'static str,
    /// What it is without the setting.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

macro_rules! settings {
    ($($variable:literal $key:literal $value:literal $default:literal $help:literal)*) => {
        /// Every setting, in the order in which help texts list them.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            variable: $variable, key: $key, value: $value, default: $default, help: $help,
        }),*];
    };
}

settings! {
    "LUNA_CONFIG" "" "FILE" "none" "a TOML file with these settings; the environment wins"
    "LUNA_DEV" "dev" "xdp:IFNAME, …" "none" "the link to use; without it luna stays out"
    "LUNA_LISTEN" "listen" "PORTS" "none" "local ports whose listeners are accelerated"
    "LUNA_CONNECT" "connect" "ADDR[/LEN][:PORTS],…" "none" "destinations to accelerate"
    "LUNA_CLIENT_PORTS" "client_ports" "FIRST-LAST" "61440-65535" "local ports of connections"
    "LUNA_MODE" "mode" "batch|dedicated" "batch" "who turns the stack: callers, or own threads"
    "LUNA_SHARDS" "shards" "1-256" "1" "stack instances, one device queue each"
    "LUNA_QUEUES" "queues" "1-1024" "all free" "most device queues that a process takes"
    "LUNA_BUSY" "busy" "BOOL" "no" "poll for ever instead of sleeping"
    "LUNA_LOG" "log" "off|error|warn|info|debug|trace" "warn" "what to print on stderr"
    "LUNA_STRICT" "strict" "BOOL" "no" "an error where a socket would stay on the kernel"
    "LUNA_DISABLE" "disable" "BOOL" "no" "leave every socket on the kernel"
    "LUNA_HAIRPIN" "hairpin" "BOOL" "no" "connections to our own ports use the stack (not yet)"
    "LUNA_SPIN" "spin" "TIME" "50us" "how long to poll before sleeping"
    "LUNA_STEWARD_AFTER" "steward_after" "TIME" "1ms" "when a steward turns an idle stack"
    "LUNA_FORKING" "forking" "NAME,…" "postgres,sshd,…" "programs that fork for each connection"
    "LUNA_PREFORK" "prefork" "NAME,…" "nginx,apache2,…" "programs that listen for forked workers"
    "LUNA_CONGESTION" "congestion" "reno|cubic|dctcp|hpcc" "reno" "congestion control"
    "LUNA_PACING" "pacing" "BOOL" "no" "spread each window over its round trip"
    "LUNA_DATACENTER" "datacenter" "ADDR[/LEN],…" "none" "peers nearby: timeouts from 4 ms on"
    "LUNA_IO_URING" "io_uring" "BOOL" "no" "let the program use io_uring, which luna can't see"
}

/// A value and where it was found.
struct Found {
    text: String,
    origin: String,
}

impl Found {
    fn error(&self, value: &str, allowed: impl Into<String>) -> ConfigError {
        let (key, allowed) = (self.origin.clone(), allowed.into());
        ConfigError::Value {
            key,
            value: value.to_owned(),
            allowed,
        }
    }

    /// An error about the whole value.
    fn wrong(&self, allowed: impl Into<String>) -> ConfigError {
        self.error(self.text.trim(), allowed)
    }

    fn range_error(&self, error: &ParseRangeError) -> ConfigError {
        self.error(&error.value, error.allowed)
    }
}

/// The values by key.
type Values = BTreeMap<&'static str, Found>;

pub(super) fn load(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    let mut warnings = Vec::new();
    let mut values = Values::new();
    let mut path = None;
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("LUNA_")) else {
            continue;
        };
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == name) else {
            warnings.push(unknown(name));
            continue;
        };
        // As if unset: there is no other way to undo an outer setting in a shell's prefix.
        if value.is_empty() {
            continue;
        }
        if setting.key.is_empty() {
            path = Some(PathBuf::from(value));
            continue;
        }
        let text = value.to_string_lossy().into_owned();
        values.insert(
            setting.key,
            Found {
                text,
                origin: name.to_owned(),
            },
        );
    }
    // The switch must work whatever else is wrong.
    if flag(&values, "disable")? == Some(true) {
        return Ok(Loaded {
            config: None,
            warnings,
        });
    }
    if let Some(path) = &path {
        for (key, text) in file::read(path)? {
            let origin = format!("{key} in {}", path.display());
            values.entry(key).or_insert(Found { text, origin });
        }
    }
    let config = build(&values, path.as_deref())?;
    Ok(Loaded { config, warnings })
}

fn build(values: &Values, path: Option<&Path>) -> Result<Option<Config>, ConfigError> {
    if flag(values, "disable")? == Some(true) {
        return Ok(None);
    }
    let Some(device) = values.get("dev") else {
        return match path {
            Some(path) => Err(ConfigError::NoDevice {
                path: path.to_owned(),
            }),
            None => Ok(None),
        };
    };
    let parsed = DeviceSpec::parse(&device.text).map_err(|allowed| device.wrong(allowed))?;
    let mut config = Config::new(parsed);
    if let Some(found) = values.get("listen") {
        config.listen =
            PortSet::parse("LUNA_LISTEN", &found.text).map_err(|e| found.range_error(&e))?;
    }
    if let Some(found) = values.get("connect") {
        config.connect =
            ConnectRules::parse("LUNA_CONNECT", &found.text).map_err(|e| found.range_error(&e))?;
    }
    if let Some(found) = values.get("client_ports") {
        config.client_ports = parse_port_range("LUNA_CLIENT_PORTS", &found.text)
            .map_err(|e| found.range_error(&e))?;
    }
    if let Some(found) = values.get("mode") {
        config.mode = [Mode::Batch, Mode::Dedicated]
            .into_iter()
            .find(|mode| mode.name().eq_ignore_ascii_case(found.text.trim()))
            .ok_or_else(|| found.wrong("batch or dedicated"))?;
    }
    if let Some(found) = values.get("shards") {
        config.shards = found
            .text
            .trim()
            .parse()
            .ok()
            .filter(|shards| (1..=SHARDS_MAX).contains(shards))
            .ok_or_else(|| found.wrong(format!("a number from 1 to {SHARDS_MAX}")))?;
    }
    set_queues(values, &mut config)?;
    set_names(values, "forking", &mut config.forking);
    set_names(values, "prefork", &mut config.prefork);
    if let Some(found) = values.get("log") {
        config.log = found
            .text
            .trim()
            .parse()
            .map_err(|_| found.wrong("off, error, warn, info, debug or trace"))?;
    }
    set_protocol(values, &mut config)?;
    set_flag(values, "busy", &mut config.busy)?;
    set_flag(values, "strict", &mut config.strict)?;
    set_flag(values, "hairpin", &mut config.hairpin)?;
    set_flag(values, "pacing", &mut config.pacing)?;
    set_flag(values, "io_uring", &mut config.io_uring)?;
    for (key, place) in [
        ("spin", &mut config.spin),
        ("steward_after", &mut config.steward_after),
    ] {
        if let Some(found) = values.get(key) {
            *place = parse_duration(&found.text).ok_or_else(|| found.wrong(DURATION_ALLOWED))?;
        }
    }
    Ok(Some(config))
}

/// What TCP itself is told.
fn set_protocol(values: &Values, config: &mut Config) -> Result<(), ConfigError> {
    if let Some(found) = values.get("congestion") {
        config.congestion = CongestionControl::from_name(found.text.trim())
            .ok_or_else(|| found.wrong("reno, cubic, dctcp or hpcc"))?;
    }
    if let Some(found) = values.get("datacenter") {
        config.data_centre = ConnectRules::parse("LUNA_DATACENTER", &found.text)
            .map_err(|e| found.range_error(&e))?;
    }
    Ok(())
}

fn set_names(values: &Values, key: &str, place: &mut Vec<String>) {
    if let Some(found) = values.get(key) {
        let names = found.text.split(',').map(str::trim);
        *place = names.filter(|n| !n.is_empty()).map(str::to_owned).collect();
    }
}

fn set_queues(values: &Values, config: &mut Config) -> Result<(), ConfigError> {
    if let Some(found) = values.get("queues") {
        let queues = found.text.trim().parse().ok();
        let queues = queues.filter(|queues| (1..=QUEUES_MAX).contains(queues));
        let wrong = || found.wrong(format!("a number from 1 to {QUEUES_MAX}"));
        config.queues = Some(queues.ok_or_else(wrong)?);
    }
    Ok(())
}

fn flag(values: &Values, key: &str) -> Result<Option<bool>, ConfigError> {
    values
        .get(key)
        .map(|found| parse_bool(&found.text).ok_or_else(|| found.wrong(BOOL_ALLOWED)))
        .transpose()
}

fn set_flag(values: &Values, key: &str, place: &mut bool) -> Result<(), ConfigError> {
    if let Some(value) = flag(values, key)? {
        *place = value;
    }
    Ok(())
}

/// A line about a name that nothing reads.
fn unknown(name: &str) -> String {
    let nearest = SETTINGS
        .iter()
        .map(|setting| (distance(name, setting.variable), setting.variable))
        .min()
        .filter(|(distance, _)| *distance <= 3 && distance * 2 <= name.len() - "LUNA_".len());
    match nearest {
        Some((_, known)) => format!("{name} is not a setting; did you mean {known}?"),
        None => format!("{name} is not a setting and has no effect"),
    }
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, above) in b.bytes().zip(row.iter_mut().skip(1)) {
            left = (left + 1)
                .min(*above + 1)
                .min(diagonal + usize::from(x != y));
            diagonal = core::mem::replace(above, left);
        }
    }
    row.last().copied().unwrap_or(a.len())
}

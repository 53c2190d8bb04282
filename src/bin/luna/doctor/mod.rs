//! `luna doctor`: what works here, what does not, and what to do about it.

mod host;
mod link;
mod ports;
mod processes;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Args;
use luna::config::{Config, DeviceSpec};

pub(crate) use self::link::PAGE_LISTS;
use crate::show;

#[derive(Args)]
pub(crate) struct Options {
    /// Link to check, like xdp:eth1 [default: LUNA_DEV or the file in LUNA_CONFIG]
    #[arg(long, value_name = "SPEC")]
    dev: Option<OsString>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug)]
pub(crate) struct Finding {
    level: Level,
    text: String,
    advice: Option<String>,
}

impl Finding {
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            text: text.into(),
            advice: None,
        }
    }

    /// Something works less well than it could.
    pub(crate) fn warn(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            text: text.into(),
            advice: Some(advice.into()),
        }
    }

    /// Nothing will be accelerated.
    pub(crate) fn fail(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            text: text.into(),
            advice: Some(advice.into()),
        }
    }
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let mut findings = host::check();
    match configuration(options.dev.as_ref()) {
        Ok(Some(config)) => {
            findings.push(Finding::ok(format!(
                "configuration: link {}",
                config.device
            )));
            findings.extend(link::check(&config));
            findings.extend(ports::check(&config));
        }
        Ok(None) => {
            findings.push(Finding::warn(
                "configuration: no link is named, so none is checked",
                link::candidates(),
            ));
            // The defaults are what most will use.
            let device = DeviceSpec::Xdp {
                interface: String::new(),
            };
            findings.extend(ports::check(&Config::new(device)));
        }
        Err(error) => {
            findings.push(Finding::fail(
                format!("configuration: {error}"),
                "correct the value",
            ));
        }
    }
    findings.extend(processes::check());
    print(&findings);
    let worst = findings.iter().map(|finding| finding.level).max();
    if worst == Some(Level::Fail) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn configuration(dev: Option<&OsString>) -> Result<Option<Config>, String> {
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| name != "LUNA_DISABLE" && (dev.is_none() || name != "LUNA_DEV"))
        .collect();
    variables.extend(dev.map(|dev| ("LUNA_DEV".into(), dev.clone())));
    let loaded = Config::load(variables).map_err(|error| error.to_string())?;
    for warning in &loaded.warnings {
        show::note(warning);
    }
    Ok(loaded.config)
}

fn print(findings: &[Finding]) {
    let colour = std::io::stdout().is_terminal();
    let mut text = String::new();
    for finding in findings {
        let (word, code) = match finding.level {
            Level::Ok => ("OK  ", "32"),
            Level::Warn => ("WARN", "33"),
            Level::Fail => ("FAIL", "31"),
        };
        let word = if colour {
            format!("\x1b[{code}m{word}\x1b[0m")
        } else {
            word.to_owned()
        };
        text += &format!("{word}  {}\n", finding.text);
        if let Some(advice) = &finding.advice {
            text += &format!("      -> {advice}\n");
        }
    }
    show::print(&text);
}

//! The programs under test: `luna` and its two libraries, and how a command is put on a stack.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::netns::{End, Netns, checked};
use super::require;

/// The stack that a program's sockets shall use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// The kernel's: the program is started as it is.
    Kernel,
    /// luna's, by `luna run`.
    Luna(Run),
}

/// The options of `luna run` that tests use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The interface of `--dev xdp:IFNAME`, or another link's whole specification.
    pub interface: String,
    /// Accelerated local ports, if any: `--listen`.
    pub listen: String,
    /// Accelerated destinations, if any: `--connect`.
    pub connect: String,
    /// Variables for the environment.
    pub environment: Vec<(String, String)>,
}

impl Run {
    /// Accelerates servers on `ports` of an interface; a failure to accelerate is an error.
    pub fn listen(interface: &str, ports: impl ToString) -> Self {
        Self {
            interface: interface.to_owned(),
            listen: ports.to_string(),
            ..Self::default()
        }
        .strict()
    }

    /// Accelerates connections to `rules` over an interface; a failure to accelerate is an error.
    pub fn connect(interface: &str, rules: impl ToString) -> Self {
        Self {
            interface: interface.to_owned(),
            connect: rules.to_string(),
            ..Self::default()
        }
        .strict()
    }

    /// Sets a variable of the program's environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn strict(self) -> Self {
        self.with("LUNA_STRICT", "1")
    }

    /// The words of the command, program under test excluded.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![path_text(luna()), "run".to_owned()];
        let dev = if self.interface.contains(':') {
            self.interface.clone()
        } else {
            format!("xdp:{}", self.interface)
        };
        let options = [
            ("--dev", &dev),
            ("--listen", &self.listen),
            ("--connect", &self.connect),
        ];
        for (name, value) in options {
            if !value.is_empty() && value != "xdp:" {
                words.extend([name.to_owned(), value.clone()]);
            }
        }
        words.push("--".to_owned());
        words
    }
}

impl Stack {
    /// A command that runs `program` in a namespace on this stack.
    pub fn command(&self, netns: &Netns, program: &str) -> Command {
        match self {
            Self::Kernel => netns.command(program),
            Self::Luna(run) => {
                let words = run.words();
                let mut command = netns.command(&words[0]);
                command.args(&words[1..]).arg(program);
                command.envs(run.environment.iter().map(|(name, value)| (name, value)));
                command
            }
        }
    }

    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Luna(_) => "luna",
        }
    }
}

/// Which of a test's two ends run on luna.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The server's.
    pub server: bool,
    /// The client's.
    pub client: bool,
}

impl Ends {
    /// The kernel on both: the harness's own control.
    pub const NEITHER: Self = Self {
        server: false,
        client: false,
    };
    /// luna on both.
    pub const BOTH: Self = Self {
        server: true,
        client: true,
    };
    /// luna serves kernel clients.
    pub const SERVER: Self = Self {
        server: true,
        client: false,
    };
    /// luna is a client of a kernel server.
    pub const CLIENT: Self = Self {
        server: false,
        client: true,
    };

    /// Whether this build can run it.
    pub fn runnable(self) -> bool {
        self == Self::NEITHER || available()
    }

    /// The server's stack and the client's, for a server on `port` of its end.
    pub fn stacks(self, server: &End, client: &End, port: u16) -> (Stack, Stack) {
        let rules = format!("{}:{port},[{}]:{port}", server.v4, server.v6);
        let choose = |luna: bool, run: Run| {
            if luna {
                Stack::Luna(run)
            } else {
                Stack::Kernel
            }
        };
        (
            choose(self.server, Run::listen(&server.interface, port)),
            choose(self.client, Run::connect(&client.interface, rules)),
        )
    }
}

/// The `luna` command of this build, its two libraries beside it.
pub fn luna() -> &'static Path {
    static PLACED: OnceLock<PathBuf> = OnceLock::new();
    PLACED.get_or_init(place)
}

/// Brings together in a folder what belongs together. What lies in `target/debug` need not: for a
/// test, cargo builds the command and `deps/libluna.so` afresh, leaves an older `libluna.so`
/// where it is, and does not build the preload library, another package's, at all.
fn place() -> PathBuf {
    let command = Path::new(env!("CARGO_BIN_EXE_luna"));
    let built = command.parent().expect("a folder that holds luna");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--package", "luna_preload"]);
    if built.ends_with("release") {
        cargo.arg("--release");
    }
    checked(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    std::fs::create_dir_all(&folder).expect("create a folder");
    let libraries = [
        built.join("deps/libluna.so"),
        built.join("libluna_preload.so"),
    ];
    for from in libraries.iter().map(PathBuf::as_path).chain([command]) {
        let name = from.file_name().expect("a file name").to_string_lossy();
        // Replaced, not written into: a program of another test run may still map the old one.
        let fresh = folder.join(format!("{name}.{}", std::process::id()));
        std::fs::copy(from, &fresh).expect("copy a program");
        std::fs::rename(&fresh, folder.join(&*name)).expect("put a program into place");
    }
    folder.join("luna")
}

/// Whether this build can put a program on luna at all. Until the command line has landed, the
/// tests run their kernel halves only, and fail in CI.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    let available = *AVAILABLE.get_or_init(|| {
        let output = Command::new(luna())
            .args(["run", "--help"])
            .output()
            .expect("run luna");
        String::from_utf8_lossy(&output.stdout).contains("--listen")
    });
    if !available {
        require::skip("this build's `luna` has no `run` command yet");
    }
    available
}

/// Runs `luna WORDS…` inside a namespace and returns its output; fails the test if it fails.
pub fn luna_in(netns: &Netns, words: &[&str]) -> String {
    netns.run(&path_text(luna()), words)
}

fn path_text(path: &Path) -> String {
    PathBuf::from(path).to_string_lossy().into_owned()
}

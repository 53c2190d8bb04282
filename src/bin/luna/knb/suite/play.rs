//! One run: a server, a client, and what the client measured.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use luna::time::{Clock as _, Instant, SystemClock};
use serde_json::{Value, json};

use super::link::{Links, Pair, Role};
use super::lists::ShortLists;
use super::plan::{Run, Variant, Work};

const PORT: u16 = 7000;
const REDIS_PORT: u16 = 6379;
const MEMCACHED_PORT: u16 = 11_211;
/// Long enough for a loaded machine to start a program.
const START_SECONDS: u64 = 20;
/// Longer than any run.
const RUN_SECONDS: u64 = 60;
const END_SECONDS: u64 = 10;
const LOOK: Duration = Duration::from_millis(5);
const WARMUP_SECONDS: f64 = 0.2;
/// Requests of redis-benchmark: a second or more on any stack here.
const REDIS_REQUESTS: &str = "150000";

/// What the runs share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) links: Links,
    pub(crate) cores: (u16, u16),
    pub(crate) seconds: f64,
    pub(crate) peers: Option<PathBuf>,
}

/// What runs on a side.
enum Program {
    /// knb on a stack: the words after `--stack`.
    Knb(Vec<String>),
    /// The other program, with smoltcp or raw frames.
    Peers(&'static str),
}

/// A started server; ended when it is dropped.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // knb's ends with its standard input; others are asked.
        drop(self.child.stdin.take());
        if wait(&mut self.child, END_SECONDS).is_none() {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn now() -> Instant {
    SystemClock.now()
}

fn wait(child: &mut Child, seconds: u64) -> Option<std::process::ExitStatus> {
    let deadline = now() + luna::time::Duration::from_secs(seconds);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if now() > deadline {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Stage {
    pub(crate) fn play(&mut self, run: &Run) -> Result<Value, String> {
        let pair = pair_of(run);
        self.links.need(pair)?;
        let _lists = match run.variant {
            Variant::KernelToXdpShortLists => Some(ShortLists::set()?),
            _ => None,
        };
        match run.work {
            Work::Redis | Work::Memcached => self.play_app(run, pair),
            _ => self.play_knb(run, pair),
        }
    }

    fn is_memif(pair: Pair) -> bool {
        pair == Pair::Memif
    }

    /// The side's link, as LUNA_DEV.
    fn dev(&self, run: &Run, pair: Pair, role: Role) -> String {
        match Self::is_memif(pair) {
            true => self.links.memif(role, run.mtu),
            false => format!("xdp:{}", self.links.interface(pair, role)),
        }
    }

    fn server_address(&self, pair: Pair) -> String {
        match Self::is_memif(pair) {
            true => self.links.memif_address(Role::Server),
            false => self.links.address(pair, Role::Server),
        }
    }

    fn program(&self, run: &Run, pair: Pair, role: Role) -> Program {
        let dev = || self.dev(run, pair, role);
        let luna = |mode: &str| Program::Knb(vec![mode.to_owned(), "--dev".to_owned(), dev()]);
        match (run.variant, role) {
            (Variant::Kernel | Variant::KernelBare, _)
            | (Variant::KernelToXdp | Variant::KernelToXdpShortLists, Role::Client) => {
                Program::Knb(words("kernel"))
            }
            (Variant::KernelSpin, _) => Program::Knb(words("kernel --spin")),
            (Variant::Inline | Variant::XdpInline, _) => luna("inline"),
            (Variant::Dedicated, _) => luna("dedicated"),
            (
                Variant::Batch
                | Variant::Xdp
                | Variant::KernelToXdp
                | Variant::KernelToXdpShortLists,
                _,
            ) => luna("batch"),
            (Variant::Smoltcp, _) => Program::Peers("smoltcp"),
            (Variant::RawMemif | Variant::RawXdp, _) => Program::Peers("raw"),
        }
    }

    /// The command of a side, up to the arguments that are the run's.
    fn command(&self, run: &Run, pair: Pair, role: Role) -> Result<Command, String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.links.namespace(pair, role)]);
        let side = match role {
            Role::Server => "server",
            Role::Client => "client",
        };
        match self.program(run, pair, role) {
            Program::Knb(stack) => {
                let own = std::env::current_exe().map_err(|error| error.to_string())?;
                command
                    .arg(own)
                    .args(["knb", side, "--json", "--stack"])
                    .args(stack);
            }
            Program::Peers(kind) => {
                let path = self.peers.as_ref();
                let path = path.ok_or("--peers was not given, so there is no such peer")?;
                command.arg(path).args([kind, side, "--json", "--dev"]);
                command.arg(self.dev(run, pair, role));
            }
        }
        command.args(["--cores", &self.cores_of(run, role)]);
        Ok(command)
    }

    /// The cores of a side: its own, or with more threads a half of the machine.
    fn cores_of(&self, run: &Run, role: Role) -> String {
        let threads = match run.work {
            Work::Rpc { threads, .. } => threads,
            _ => 1,
        };
        let (server, client) = self.cores;
        let first = match (role, threads) {
            (Role::Server, _) => server,
            (Role::Client, 1) => client,
            (Role::Client, _) => threads,
        };
        (first..first + threads)
            .map(|core| core.to_string())
            .collect::<Vec<_>>()
            .join(",")
    }

    fn play_knb(&self, run: &Run, pair: Pair) -> Result<Value, String> {
        let mut command = self.command(run, pair, Role::Server)?;
        command.args(["--address", &format!("0.0.0.0:{PORT}"), "--until-eof"]);
        match (self.program(run, pair, Role::Server), run.work) {
            (Program::Peers(_), work) => {
                command.args(client_words(work));
            }
            (Program::Knb(_), Work::Rpc { threads, .. }) => {
                command.args(["--threads", &threads.to_string()]);
            }
            _ => {}
        }
        let mut server = self.start(command)?;
        await_ready(&mut server)?;
        let mut command = self.command(run, pair, Role::Client)?;
        command.arg(format!("{}:{PORT}", self.server_address(pair)));
        command.args(["--seconds", &self.seconds.to_string()]);
        command.args(["--warmup", &WARMUP_SECONDS.to_string()]);
        command.args(client_words(run.work));
        let text = self.finish(command, &server)?;
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| format!("the client said `{line}`: {error}"))
    }

    fn start(&self, mut command: Command) -> Result<Server, String> {
        let log = self.links.folder().join("server.log");
        let file = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("the server: {error}"))?;
        Ok(Server { child, log })
    }

    /// Runs a client to its end; returns what it printed.
    fn finish(&self, mut command: Command, server: &Server) -> Result<String, String> {
        let log = self.links.folder().join("client.log");
        let file = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("the client: {error}"))?;
        let status = wait(&mut child, RUN_SECONDS);
        if status.is_none() {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        let mut text = String::new();
        if let Some(mut out) = child.stdout.take() {
            let _read = out.read_to_string(&mut text);
        }
        if status.is_some_and(|status| status.success()) {
            return Ok(text);
        }
        let said = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let how = status.map_or("did not end".to_owned(), |status| status.to_string());
        let (client, server) = (said(&log), said(&server.log));
        Err(format!(
            "the client: {how}: {} | the server: {}",
            client.trim(),
            server.trim()
        ))
    }

    fn app_side(&self, run: &Run, pair: Pair, role: Role, port: u16) -> Result<Command, String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.links.namespace(pair, role)]);
        let core = match role {
            Role::Server => self.cores.0,
            Role::Client => self.cores.1,
        };
        command.args(["taskset", "-c", &core.to_string()]);
        let on_luna = match run.variant {
            Variant::Batch | Variant::Xdp => true,
            Variant::KernelToXdp => role == Role::Server,
            _ => false,
        };
        if on_luna {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            command
                .args(["env", "LUNA_STRICT=1"])
                .arg(own)
                .args(["run", "--dev"]);
            command.arg(self.dev(run, pair, role));
            match role {
                Role::Server => command.args(["--listen", &port.to_string()]),
                Role::Client => {
                    let rule = format!("{}:{port}", self.server_address(pair));
                    command.args(["--connect", &rule])
                }
            };
            command.arg("--");
        }
        Ok(command)
    }

    fn play_app(&self, run: &Run, pair: Pair) -> Result<Value, String> {
        let is_redis = run.work == Work::Redis;
        let port = if is_redis { REDIS_PORT } else { MEMCACHED_PORT };
        let mut command = self.app_side(run, pair, Role::Server, port)?;
        let folder = self.links.folder().display().to_string();
        if is_redis {
            command.args([
                "redis-server",
                "--port",
                &port.to_string(),
                "--bind",
                "0.0.0.0",
            ]);
            command.args(["--protected-mode", "no", "--save", "", "--appendonly", "no"]);
            command.args(["--dir", &folder]);
        } else {
            command.args(["memcached", "-u", "root", "-t", "1", "-l", "0.0.0.0"]);
            command.args(["-p", &port.to_string(), "-U", "0", "-c", "1024"]);
        }
        command.stdout(Stdio::null());
        let server = self.start_app(command, &self.links.namespace(pair, Role::Server), port)?;
        let host = self.server_address(pair);
        let outcome = if is_redis {
            let mut command = self.app_side(run, pair, Role::Client, port)?;
            command.args([
                "redis-benchmark",
                "-h",
                &host,
                "-p",
                &port.to_string(),
                "-t",
                "get",
            ]);
            command.args(["-c", "50", "-d", "100", "-n", REDIS_REQUESTS, "--csv"]);
            self.finish(command, &server)
                .and_then(|text| redis_result(&text))
        } else {
            // The load's own calls can't be intercepted: it uses luna itself.
            let mut command = self.command(run, pair, Role::Client)?;
            command.args([
                "--protocol",
                "memcached",
                "--size",
                "100",
                "--connections",
                "50",
            ]);
            command.args(["--seconds", &self.seconds.to_string()]);
            command.arg(format!("{host}:{port}"));
            self.finish(command, &server).and_then(|text| {
                serde_json::from_str(text.trim()).map_err(|error| error.to_string())
            })
        };
        end_app(server);
        outcome
    }

    fn start_app(&self, command: Command, namespace: &str, port: u16) -> Result<Server, String> {
        let mut server = self.start(command)?;
        let deadline = now() + luna::time::Duration::from_secs(START_SECONDS);
        loop {
            let output = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    namespace,
                    "ss",
                    "-Hltn",
                    "sport",
                    "=",
                    &port.to_string(),
                ])
                .output()
                .map_err(|error| format!("ss: {error}"))?;
            if !output.stdout.is_empty() {
                return Ok(server);
            }
            let is_gone = server.child.try_wait().is_ok_and(|status| status.is_some());
            if is_gone || now() > deadline {
                let said = std::fs::read_to_string(&server.log).unwrap_or_default();
                end_app(server);
                return Err(format!("the server does not listen: {}", said.trim()));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// `ip netns exec`, `taskset`, `env` and `luna run` replace themselves by the program.
fn end_app(server: Server) {
    let pid = i32::try_from(server.child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    drop(server);
}

fn pair_of(run: &Run) -> Pair {
    match run.variant {
        Variant::Kernel | Variant::KernelSpin if run.mtu == 9000 => Pair::KernelJumbo,
        Variant::Kernel | Variant::KernelSpin => Pair::Kernel,
        Variant::KernelBare => Pair::Bare,
        Variant::Xdp
        | Variant::XdpInline
        | Variant::KernelToXdp
        | Variant::KernelToXdpShortLists
        | Variant::RawXdp => {
            if run.mtu == 9000 {
                Pair::XdpJumbo
            } else {
                Pair::Xdp
            }
        }
        _ => Pair::Memif,
    }
}

fn client_words(work: Work) -> Vec<String> {
    match work {
        Work::Rpc {
            size,
            connections,
            iodepth,
            threads,
        } => words(&format!(
            "--size {size} --connections {connections} --iodepth {iodepth} \
             --threads {threads} --server-threads {threads}"
        )),
        Work::Short { connections } => {
            words(&format!("--size 64 --short --connections {connections}"))
        }
        Work::Raw { frames, bytes } => words(&format!("--frames {frames} --bytes {bytes}")),
        Work::Redis | Work::Memcached => Vec::new(),
    }
}

/// Waits for the line that says that the server can be connected to. (A server that hangs is
/// ended by whoever ends us; one that fails closes its output.)
fn await_ready(server: &mut Server) -> Result<(), String> {
    let out = server
        .child
        .stdout
        .as_mut()
        .ok_or("the server has no output")?;
    let mut line = String::new();
    let _read = BufReader::new(out).read_line(&mut line);
    if line.contains("\"ready\":true") {
        return Ok(());
    }
    wait(&mut server.child, 1);
    let said = std::fs::read_to_string(&server.log).unwrap_or_default();
    Err(format!("the server did not start: {}", said.trim()))
}

fn redis_result(text: &str) -> Result<Value, String> {
    let line = text
        .lines()
        .map(|line| line.replace('"', ""))
        .find(|line| line.starts_with("GET,"));
    let line = line.ok_or_else(|| format!("redis-benchmark said `{}`", text.trim()))?;
    let fields: Vec<f64> = line
        .split(',')
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // rps, then in milliseconds: average, minimum, p50, p95, p99, maximum
    let (Some(rps), Some(p50), Some(p99)) = (fields.first(), fields.get(3), fields.get(5)) else {
        return Err(format!("redis-benchmark said `{line}`"));
    };
    Ok(json!({ "rps": rps, "p50_us": p50 * 1e3, "p99_us": p99 * 1e3 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_redis_benchmark_is_read() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
                    \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"GET\",\"89847.26\",\"0.300\",\"0.100\",\"0.279\",\"0.400\",\"0.543\",\
                    \"2.0\"\n";
        let result = redis_result(text).expect("a result");
        assert_eq!(
            result,
            json!({ "rps": 89847.26, "p50_us": 279.0, "p99_us": 543.0 })
        );
        assert!(redis_result("Could not connect to Redis").is_err());
    }
}

//! Processes of a test: started with their output captured, ended when dropped, and waited for
//! by condition and deadline.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::netns::Netns;

/// How long a condition that "will be true in a moment" may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running program whose standard output and error go to files.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Proc {
    /// Starts a command.
    pub fn start(mut command: Command) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| {
            let name = format!("proc-{}-{number}.{kind}", std::process::id());
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
        };
        let (stdout, stderr) = (file("out"), file("err"));
        let what = format!("{command:?}").replace('"', "");
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("create an output file"))
            .stderr(File::create(&stderr).expect("create an output file"))
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        Self {
            child,
            what,
            stdout,
            stderr,
            status: None,
        }
    }

    /// The process id: of the program itself, `ip netns exec` and `luna run` replace themselves.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for a process");
        }
        self.status
    }

    /// Waits for the end; fails the test, with the output, after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                Instant::now() < until,
                "no end within {deadline:?}: {}",
                self.report()
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits for a successful end and returns standard output.
    pub fn succeed(mut self, deadline: Duration) -> String {
        let status = self.wait(deadline);
        assert!(status.success(), "{status}: {}", self.report());
        self.stdout()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().expect("kill a process");
            self.status = Some(self.child.wait().expect("wait for a killed process"));
        }
    }

    /// Asks it to end as a service manager would.
    pub fn terminate(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .expect("signal a process");
        }
        self.wait(PATIENCE)
    }

    /// What to print when something about this process went wrong.
    pub fn report(&self) -> String {
        let ending = match self.status {
            Some(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended, {status}"),
            },
            None => "still running".to_owned(),
        };
        format!(
            "{} (pid {}, {ending})\n--- stdout\n{}--- stderr\n{}---",
            self.what,
            self.pid(),
            self.stdout(),
            self.stderr()
        )
    }

    /// Waits until this server accepts TCP connections of its own namespace at the address;
    /// fails as soon as it ends.
    pub fn wait_for_port(&mut self, netns: &Netns, address: IpAddr, port: u16) {
        let target = SocketAddr::new(address, port);
        let until = Instant::now() + PATIENCE;
        loop {
            if connects(netns, target) {
                return;
            }
            assert!(
                self.ended().is_none(),
                "ended before serving {target}: {}",
                self.report()
            );
            assert!(
                Instant::now() < until,
                "does not serve {target}: {}",
                self.report()
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.status.is_none() {
            // It may have ended by itself; either way there is nobody left to tell.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        let _ = std::fs::remove_file(&self.stdout);
        let _ = std::fs::remove_file(&self.stderr);
    }
}

/// Whether a kernel TCP connection from inside the namespace succeeds.
pub fn connects(netns: &Netns, target: SocketAddr) -> bool {
    netns.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)).is_ok())
}

/// Waits until a condition holds; fails the test after [`PATIENCE`].
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_at_most(PATIENCE, what, condition);
}

/// Waits until a condition holds; fails the test after `deadline`. Returns how long it took.
pub fn wait_at_most(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    loop {
        if condition() {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < deadline,
            "waited {deadline:?} in vain for {what}"
        );
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

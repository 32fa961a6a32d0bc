//! The product as a process: what it wrote, how it is told to stop, how it ended.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One process after another, and everything that any of them wrote. Dropping it kills the one that runs.
#[derive(Default)]
pub(crate) struct Process {
    child: Mutex<Option<Child>>,
    output: Arc<Mutex<Vec<u8>>>,
    kills: Mutex<usize>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.lock().unwrap().as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    /// Starts a program in place of the one before.
    pub(crate) fn start(&self, command: Command) {
        self.start_with(command, Stdio::null());
    }

    /// The same with something else as its standard input.
    pub(crate) fn start_with(&self, mut command: Command, stdin: Stdio) {
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        keep(child.stdout.take().unwrap(), self.output.clone());
        keep(child.stderr.take().unwrap(), self.output.clone());
        *self.child.lock().unwrap() = Some(child);
    }

    /// Runs another program beside it, to its end.
    pub(crate) fn run(&self, mut command: Command) -> Printed {
        let output = tokio::task::block_in_place(|| command.stdin(Stdio::null()).output().unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let printed = Printed {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        self.output
            .lock()
            .unwrap()
            .extend([output.stdout, output.stderr].concat());
        printed
    }

    /// Everything that was written so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// The last lines of it.
    pub(crate) fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Waits until the output contains a text.
    pub(crate) async fn until_it_says(&self, text: &str) {
        let begun = Instant::now();
        while !self.output().to_lowercase().contains(&text.to_lowercase()) {
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "it never said {text:?}:\n{}",
                self.tail()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The id of the one that runs.
    pub(crate) fn pid(&self) -> u32 {
        self.child
            .lock()
            .unwrap()
            .as_ref()
            .expect("a running product")
            .id()
    }

    /// How much memory it has, in MiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    }

    /// How much of the processor it has had, in hundredths of a second.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After its name, which may hold anything: the state, and ten numbers before the two that are meant.
        let (_, numbers) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = numbers
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|number| number.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own: not every machine has the program.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status()
            .unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    /// Whether there is one that was started and not seen to end.
    pub(crate) fn is_there(&self) -> bool {
        self.child.lock().unwrap().is_some()
    }

    /// How it ended, if it has.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .unwrap()
            .as_mut()
            .and_then(|child| child.try_wait().unwrap())
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn exited(&self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                *self.child.lock().unwrap() = None;
                return status;
            }
            assert!(
                begun.elapsed() < patience,
                "it is still running after {patience:?}:\n{}",
                self.tail()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) async fn term(&self, patience: Duration) -> ExitStatus {
        self.signal("TERM");
        self.exited(patience).await
    }

    /// SIGKILL: no last words.
    pub(crate) fn kill9(&self) {
        let mut child = self
            .child
            .lock()
            .unwrap()
            .take()
            .expect("a running product");
        child.kill().unwrap();
        child.wait().unwrap();
        *self.kills.lock().unwrap() += 1;
    }

    /// How often it was killed.
    pub(crate) fn kills(&self) -> usize {
        *self.kills.lock().unwrap()
    }
}

/// Keeps what a pipe carries, on a thread that ends with it.
fn keep(mut pipe: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 {
                return;
            }
            into.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
}

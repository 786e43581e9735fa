//! Echoes its input byte for byte. This is the peer in tests on systems without `cat`.
//!
//! With `--pids`, it first prints its process ID and that of another process, which it starts and for
//! which it does not wait. With `--surroundings`, it first prints its arguments, its directory and its
//! environment.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn main() -> std::io::Result<()> {
    let (mut stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
    match std::env::args().nth(1).as_deref() {
        Some("--pids") => {
            let mut other = Command::new(std::env::current_exe()?);
            let other = other.arg("--wait").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            writeln!(stdout, "{} {}", std::process::id(), other.id())?;
        }
        Some("--surroundings") => {
            writeln!(stdout, "{:?}", std::env::args().skip(1).collect::<Vec<_>>())?;
            writeln!(stdout, "{}", std::env::current_dir()?.display())?;
            for (name, value) in std::env::vars() {
                writeln!(stdout, "{name}={value}")?;
            }
        }
        Some("--wait") => loop {
            std::thread::park();
        },
        _ => {}
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stdin.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stdout.write_all(buffer.get(..read).unwrap_or_default())?;
        stdout.flush()?;
    }
}

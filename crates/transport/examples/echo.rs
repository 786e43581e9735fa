//! Gives back what comes in, byte for byte: the far side of tests where there is no `cat`.

use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    let (mut stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
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

//! The default endpoint of a server: a pipe named after the program.

use std::ffi::OsStr;
use std::path::Path;

use tieline_transport::{Address, DynAcceptor, Endpoint, Options, Registry};

use crate::report::Failure;
use crate::sessions::{self, Served};

/// How many servers with the same name may use default pipes.
const MAX_NUMBER: u32 = 1000;

/// Listens on a pipe named after `program`, with a number appended if that one is in use, by any user.
pub(crate) async fn listen(
    registry: &Registry,
    program: &OsStr,
    options: &Options,
    served: Served,
) -> Result<Box<dyn DynAcceptor>, Failure> {
    let name = pipe_name(program);
    let places = (1..=MAX_NUMBER).map(|number| match number {
        1 => Endpoint::new(Address::Pipe(name.clone())),
        _ => Endpoint::new(Address::Pipe(format!("{name}-{number}"))),
    });
    let acceptor = sessions::listen_at_first_free(registry, places, options, served).await?;
    acceptor.ok_or_else(|| {
        Failure::other(format!(
            "{MAX_NUMBER} pipes named {name} are in use. Choose an endpoint with --listen"
        ))
    })
}

/// Returns the program's file name without its extension, in characters that need no quoting. It has the
/// prefix `tieline-` because all pipes of a machine share one namespace.
fn pipe_name(program: &OsStr) -> String {
    let stem = Path::new(program).file_stem().unwrap_or(program).to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = stem.chars().map(|c| if plain(c) { c } else { '-' }).take(40).collect();
    let name = if name.trim_matches(['.', '-']).is_empty() { "program" } else { &name };
    format!("tieline-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_named_after_the_program() {
        for (program, name) in [
            ("cat", "tieline-cat"),
            (r"C:\Program Files\my agent.exe", "tieline-my-agent"),
            ("..", "tieline-program"),
            ("é", "tieline-program"),
        ] {
            assert_eq!(pipe_name(OsStr::new(program)), name, "{program}");
        }
    }
}

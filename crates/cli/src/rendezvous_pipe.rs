//! Where a server listens when nobody says where: a pipe named after the program.

use std::ffi::OsStr;
use std::path::Path;

use tieline_transport::{Address, DynAcceptor, Endpoint, Options, Registry};

use crate::report::Failure;
use crate::sessions::{self, Served};

/// How many servers of one name may run before a person is asked to say where.
const MAX_NUMBER: u32 = 1000;

/// Listens on a pipe named after `program`; where that is in use, also by another user, on the next
/// number.
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
        Failure::Said(format!("{MAX_NUMBER} pipes of this name are in use; say where: --listen"))
    })
}

/// The program's file name without its ending, in characters that need no quoting anywhere. All pipes
/// of a machine are in one place, so it says whose it is.
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

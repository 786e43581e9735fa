//! `tieline chaos`: a proxy that does harm, and says how much.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;

use tieline_gateway::{ChaosReport, Faults};
use tieline_http::WebAddress;
use tieline_transport::{Address, Endpoint, Options, Registry, TransportError};

use crate::args::{Bytes, Chaos};
use crate::children;
use crate::report::Failure;
use crate::signals::Signals;

pub(crate) async fn run(args: Chaos) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let faults = Faults {
        cut_every: args.cut_every,
        delay: args.delay,
        throttle: args.throttle,
        blackhole: args.blackhole,
        corrupt: args.corrupt,
        seed: args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
    };
    let mut options = Options {
        // A server on the web judges everybody for itself, whichever way they come; but on this machine
        // alone, unless it was told to be reached from others.
        allow_unauthenticated_tcp: args.allow_unauthenticated_tcp
            || (args.listen.is_web_of_this_machine() && args.target.is_web()),
        ..children::options()
    };
    let has_socket = matches!(args.listen.carrier.address(), Address::Unix(_));
    args.sockets.set(&mut options, has_socket)?;
    let (registry, target) = (Registry::new(), &args.target.endpoint);
    let (front, back) = (&args.listen.carrier, &args.target.carrier);
    let chaos = tieline_gateway::Chaos::listen(&registry, front, back, &options, faults);
    let chaos = chaos.await?;
    let listen = shown(&args.listen, chaos.endpoint(), &args.target)?;
    // Nobody may be reading; it does harm all the same.
    let _ = writeln!(std::io::stdout(), "{listen}");
    tracing::info!("between {listen} and {target}: {}", harm(&faults));
    let report = chaos.run(signals.first()).await;
    let ChaosReport { connections, refused, cut, to_target, to_client, dropped, corrupted, .. } =
        report;
    tracing::info!(
        connections,
        refused,
        cut,
        to_target,
        to_client,
        dropped,
        corrupted,
        "ended; bytes were counted"
    );
    Ok(())
}

/// Where clients connect: with the port that was found, and what is asked for behind it.
fn shown(listen: &Bytes, bound: &Endpoint, target: &Bytes) -> Result<String, TransportError> {
    let Address::Other { scheme, .. } = listen.endpoint.address() else {
        return Ok(bound.exact().to_string());
    };
    let path = match target.is_web() {
        true => WebAddress::of(&target.endpoint)?.target,
        false => WebAddress::of(&listen.endpoint)?.target,
    };
    Ok(match bound.address() {
        Address::Unix(_) => {
            format!("{}:{path}", bound.exact().to_string().replacen("unix", scheme, 1))
        }
        _ => format!(
            "{}{path}",
            bound.exact().to_string().replacen("tcp:", &format!("{scheme}://"), 1)
        ),
    })
}

/// What will be done to each connection, in words.
fn harm(faults: &Faults) -> String {
    let mut harm = Vec::new();
    if let Some(time) = faults.cut_every {
        harm.push(format!("cut after {}", humantime::format_duration(time)));
    }
    if !faults.delay.is_zero() {
        harm.push(format!("delayed by {}", humantime::format_duration(faults.delay)));
    }
    if let Some(rate) = faults.throttle {
        harm.push(format!("held to {rate} a second each way"));
    }
    if faults.blackhole {
        harm.push("swallowed".to_owned());
    }
    if faults.corrupt > 0.0 {
        harm.push(format!(
            "a bit flipped in a byte in {}, seed {}",
            1.0 / faults.corrupt,
            faults.seed
        ));
    }
    match harm.is_empty() {
        true => "nothing goes wrong; see --help for what can".to_owned(),
        false => format!("each connection is {}", harm.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tieline_proto::ByteSize;

    #[test]
    fn what_will_be_done_is_said_in_words() {
        let none = Faults::default();
        assert!(harm(&none).starts_with("nothing goes wrong"));
        let all = Faults {
            cut_every: Some(Duration::from_secs(5)),
            delay: Duration::from_millis(200),
            throttle: Some(ByteSize::kib(64)),
            blackhole: true,
            corrupt: 0.001,
            seed: 7,
        };
        assert_eq!(
            harm(&all),
            "each connection is cut after 5s, delayed by 200ms, held to 64KiB a second each way, \
             swallowed, a bit flipped in a byte in 1000, seed 7"
        );
    }
}

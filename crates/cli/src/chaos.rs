//! `tieline chaos`: a proxy that injects faults.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;

use tieline_gateway::{ChaosReport, Faults};
use tieline_http::WebAddress;
use tieline_transport::{Address, Endpoint, Options, Registry, TransportError};

use crate::args::{Bytes, Chaos};
use crate::children;
use crate::lookup;
use crate::names::{self, Name};
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
        // A web server authenticates clients itself, so the proxy may listen on loopback without a
        // token. On other interfaces, it requires the option.
        allow_unauthenticated_tcp: args.allow_unauthenticated_tcp
            || (args.listen.is_web_of_this_machine() && args.target.is_web()),
        ..children::options()
    };
    let has_socket = matches!(args.listen.carrier.address(), Address::Unix(_));
    args.sockets.set(&mut options, has_socket)?;
    let (registry, target) = (Registry::new(), &args.target.endpoint);
    let (front, back) = (&args.listen.carrier, &args.target.carrier);
    lookup::check(back).await?;
    if Name::at(front).is_some() {
        names::prepare()?;
    }
    let chaos = tieline_gateway::Chaos::listen(&registry, front, back, &options, faults).await;
    let chaos = match chaos {
        Ok(chaos) => chaos,
        Err(error) => return Err(lookup::explained(error).await),
    };
    let listen = shown(&args.listen, chaos.endpoint(), &args.target)?;
    // Errors are ignored, because the proxy also runs if its output is not read.
    let _ = writeln!(std::io::stdout(), "{listen}");
    tracing::info!("forwarding {listen} to {target}; {}", describe(&faults));
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
        "stopped; to_target, to_client and dropped are in bytes"
    );
    Ok(())
}

/// Returns the endpoint for clients, with the actual port and the path of the target.
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

/// Describes the faults of each connection.
fn describe(faults: &Faults) -> String {
    let mut faulty = Vec::new();
    if let Some(time) = faults.cut_every {
        faulty.push(format!("cut after {}", humantime::format_duration(time)));
    }
    if !faults.delay.is_zero() {
        faulty.push(format!("delayed by {}", humantime::format_duration(faults.delay)));
    }
    if let Some(rate) = faults.throttle {
        faulty.push(format!("limited to {rate} per second in each direction"));
    }
    if faults.blackhole {
        faulty.push("discarded".to_owned());
    }
    if faults.corrupt > 0.0 {
        faulty.push(format!(
            "corrupted by a bit flip in one of {} bytes with seed {}",
            1.0 / faults.corrupt,
            faults.seed
        ));
    }
    match faulty.is_empty() {
        true => "no faults are configured; see --help".to_owned(),
        false => format!("each connection is {}", faulty.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tieline_proto::ByteSize;

    #[test]
    fn faults_are_described() {
        let none = Faults::default();
        assert!(describe(&none).starts_with("no faults"));
        let all = Faults {
            cut_every: Some(Duration::from_secs(5)),
            delay: Duration::from_millis(200),
            throttle: Some(ByteSize::kib(64)),
            blackhole: true,
            corrupt: 0.001,
            seed: 7,
        };
        assert_eq!(
            describe(&all),
            "each connection is cut after 5s, delayed by 200ms, limited to 64KiB per second in each \
             direction, discarded, corrupted by a bit flip in one of 1000 bytes with seed 7"
        );
    }
}

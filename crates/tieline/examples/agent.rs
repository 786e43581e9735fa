//! An agent in about 30 lines, whose handlers work on stdin and stdout or on any endpoint.
//!
//!     cargo run --example agent                            # then type a request
//!     cargo run --example agent unix:/tmp/agent.sock       # then: tieline call unix:/tmp/agent.sock add '[2,3]'

use tieline::ServeOptions;
use tieline::rpc::{ErrorObject, Peer, PeerOptions, Router};

fn agent() -> Router {
    Router::new().request("add", |(a, b): (f64, f64), _| async move { Ok(a + b) }).request(
        "greet",
        |[name]: [String; 1], peer: Peer| async move {
            // A handler can call its caller before it answers.
            let language: String =
                peer.call("language", ()).await.map_err(ErrorObject::internal)?;
            Ok(if language == "de" { format!("Hallo {name}") } else { format!("hello {name}") })
        },
    )
}

pub(crate) async fn serve(channel: impl tieline::Channel) {
    let (_peer, driver) = Peer::new(channel, agent(), PeerOptions::default());
    eprintln!("the line has ended: {}", driver.await);
}

#[tokio::main]
async fn main() -> Result<(), tieline::TransportError> {
    let Some(endpoint) = std::env::args().nth(1) else {
        serve(tieline::connect("stdio:").await?).await;
        return Ok(());
    };
    let acceptor = tieline::listen(&endpoint).await?;
    tieline::serve(acceptor, ServeOptions::default(), tokio::signal::ctrl_c(), serve).await
}

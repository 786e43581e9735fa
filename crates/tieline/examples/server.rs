//! Serves one handler with typed parameters on a Unix socket and on the web.
//!
//!     TOKEN=a-token-that-is-hard-to-guess cargo run --example server --features web

use tieline::rpc::{ErrorObject, Peer, PeerOptions, Router};
use tieline::web::{Access, HttpServer, Place, ServerConfig, Token};
use tieline::{Channel, ServeOptions, serve};

#[derive(serde::Deserialize)]
struct Division {
    dividend: f64,
    divisor: f64,
}

async fn answer(channel: impl Channel) {
    let router = Router::new().request("divide", |it: Division, _| async move {
        match it.divisor {
            0.0 => Err(ErrorObject::invalid_params("the divisor is zero")),
            divisor => Ok(it.dividend / divisor),
        }
    });
    let (_peer, driver) = Peer::new(channel, router, PeerOptions::default());
    driver.await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = Place::Tcp { host: "127.0.0.1".into(), port: 8080 };
    let access = Access::Token(Token::new(std::env::var("TOKEN")?)?);
    let (_web, lines, _) = HttpServer::listen(ServerConfig::new(place, access)).await?;
    let socket = tieline::listen("unix:/tmp/division.sock").await?;
    let stop = tokio::signal::ctrl_c;
    let options = ServeOptions::default();
    tokio::try_join!(
        serve(socket, options, stop(), answer),
        serve(Box::new(lines), options, stop(), answer),
    )?;
    Ok(())
}

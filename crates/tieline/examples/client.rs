//! Starts a program, calls it, and prints its notifications.
//!
//!     cargo run --example client "exec:tieline demo-agent"

use serde_json::Value;
use tieline::rpc::{Peer, Router};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or("exec:tieline demo-agent".into());
    let channel = tieline::connect(&endpoint).await?;
    let notifications = Router::new()
        .notification("count", |params: Value, _| async move { println!("count: {params}") });

    let peer = Peer::spawn(channel, notifications);
    let sum: f64 = peer.call("add", (2, 3)).await?;
    println!("2 + 3 = {sum}");
    let counted: Value = peer.call("count", [3]).await?;
    println!("{counted}");

    println!("the line has ended: {}", peer.close().await);
    Ok(())
}

//! Sends messages in a session that survives lost connections, and prints the session's states.
//!
//!     tieline serve --resume --listen unix:/tmp/agent.sock -- cat
//!     cargo run --example resumable resume+unix:/tmp/agent.sock

use tieline::link::SessionOptions;
use tieline::{Channel, Options, ReceiverExt, SenderExt};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).ok_or("usage: resumable ENDPOINT")?;
    let session =
        tieline::connect_session(&endpoint, &Options::default(), SessionOptions::default()).await?;
    let mut states = session.states();
    tokio::spawn(async move {
        while let Some(state) = states.next().await {
            eprintln!("{state}");
        }
    });

    let (mut sender, mut receiver) = session.split();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        sender.send(line).await?;
        println!("{:?}", receiver.next_message().await.ok_or("the session has ended")?);
    }
    Ok(())
}

//! A custom transport that is registered with its own scheme and used like any other.
//!
//! ```console
//! $ cargo run -p tieline-transport --example custom_transport
//! xor:7@mem:greeter carried: hello, stranger
//! ```
//!
//! The transport is in `xor.rs`. The conformance suite is run on it, and should also be run on yours.

mod xor;

use tieline_transport::{
    Channel, Endpoint, Incoming, Memory, Options, ReceiverExt, Registry, SenderExt,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut registry = Registry::new();
    registry.register("xor", xor::Xor::over(Memory::default()));

    let endpoint: Endpoint = "xor:7@mem:greeter".parse()?;
    let options = Options::default();
    let mut acceptor = registry.listen(&endpoint, &options).await?;
    let (client, server) = tokio::join!(registry.connect(&endpoint, &options), acceptor.accept());
    let (mut ask, mut answers) = client?.split();
    let (mut reply, mut questions) = server?.split();

    ask.send("stranger").await?;
    let Incoming::Message(name) = questions.recv().await else { return Err("no request".into()) };
    reply.send(format!("hello, {}", String::from_utf8_lossy(&name))).await?;
    let Incoming::Message(answer) = answers.recv().await else { return Err("no response".into()) };

    println!("{endpoint} carried: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

//! An echo server and an echo client for the Autobahn test suite, which expects each message back unchanged.
//!
//! ```console
//! $ cargo run -p tieline-http --example autobahn -- serve 9001    # to test with its fuzzingclient, at /ws
//! $ cargo run -p tieline-http --example autobahn -- client 9002   # to test against its fuzzingserver
//! ```

use tieline_http::{
    Access, ClientConfig, HttpServer, Place, ServerConfig, Token, WebChannel, WebSocketConfig,
    connect,
};
use tieline_transport::{
    Acceptor, Channel, Endpoint, Incoming, Options, ReceiverExt, SenderExt, TransportError,
};

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match *words {
        ["serve", port] => serve(port.parse()?).await,
        ["client", port] => client(port.parse()?).await,
        _ => Err("usage: autobahn serve PORT | client PORT".into()),
    }
}

async fn serve(port: u16) -> Result<(), Error> {
    let place = Place::Tcp { host: "127.0.0.1".to_owned(), port };
    let config = ServerConfig {
        access: Access::Anybody,
        web_socket: WebSocketConfig { verbatim: true, ..WebSocketConfig::default() },
        ..ServerConfig::new(place, Token::random()?)
    };
    let (web, mut plain, _resumable) = HttpServer::listen(config).await?;
    println!("{}", web.endpoint());
    loop {
        tokio::spawn(echo(
            plain.accept().await?.into_web_socket().ok_or("the line is not a WebSocket")?,
        ));
    }
}

async fn client(port: u16) -> Result<(), Error> {
    let channel = to(port, "getCaseCount").await?;
    let (_sender, mut receiver) = channel.split();
    let Incoming::Message(count) = receiver.recv().await else {
        return Err("the server sent no case count".into());
    };
    for case in 1..=std::str::from_utf8(&count)?.parse::<u32>()? {
        echo(to(port, &format!("runCase?case={case}&agent=tieline")).await?).await;
    }
    echo(to(port, "updateReports?agent=tieline").await?).await;
    Ok(())
}

async fn to(port: u16, target: &str) -> Result<WebChannel, TransportError> {
    let url: Endpoint = format!("ws://127.0.0.1:{port}/{target}").parse()?;
    let config = ClientConfig { verbatim: true, ..ClientConfig::default() };
    connect(&url, config, &Options::default()).await
}

async fn echo(channel: WebChannel) {
    let (mut sender, mut receiver) = channel.split();
    loop {
        match receiver.recv().await {
            Incoming::Message(message) => {
                sender.set_kind(Some(receiver.kind()));
                if sender.send(message).await.is_err() {
                    // The receiver reports the reason.
                    continue;
                }
            }
            Incoming::End(_) => return,
            _ => {}
        }
    }
}

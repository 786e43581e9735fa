//! Opens a file in the xi-core editor, inserts a line at its beginning and saves it:
//!
//! ```console
//! $ cargo run -p tieline-rpc --example xi -- path/to/xi-core notes.txt "a line"
//! ```

// This example does not use all methods of the module.
#[allow(dead_code)]
mod xi;

use std::error::Error;

use tieline_transport::{Endpoint, Options, Registry};
use xi::{Event, Xi};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [core, file, line] = args.as_slice() else { return Err("usage: xi CORE FILE LINE".into()) };
    let endpoint = Endpoint::exec(core, [""; 0]);
    let channel = Registry::new().connect(&endpoint, &Options::default()).await?;
    let (xi, mut events, driver) = Xi::start(channel).await?;
    let driver = tokio::spawn(driver);

    let view = xi.open(file).await?;
    view.insert(&format!("{line}\n")).await?;
    view.save(file).await?;
    xi.peer().close().await;
    while let Some(event) = events.next().await {
        match event {
            Event::ScrollTo { line, col, .. } => println!("the cursor is at {line}:{col}"),
            Event::Alert(text) => return Err(text.into()),
            _ => {}
        }
    }
    println!("{}", driver.await?);
    Ok(())
}

//! Channels whose messages travel in HTTP requests and their responses, as an [`Exchange`] decides.
//!
//! ```text
//!   channel ⇄ ChannelBackend ⇄ drive ⇄ the machine
//!                                │ start, stop     ▲ heads and bodies
//!                                ▼                 │
//!                              one task for each request ⇄ idle connections
//! ```

mod connections;
mod drive;

use std::sync::Arc;

use tieline_proto::{ByteSize, Exchange};
use tieline_transport::{
    BoxFuture, ChannelConfig, Connector, DynAcceptor, DynConnector, Endpoint, ErrorKind, Operation,
    Options, Scheme, TransportError, TransportKind,
};

use self::connections::Connections;
use crate::address::{MCP, WebAddress};
use crate::dialer::{Client, Dialer};
use crate::events::{ChannelParams, EventChannel, EventStreams, pair};

/// Creates the machine of a line, for messages up to this size.
pub type NewExchange = fn(ByteSize) -> Box<dyn Exchange>;

/// The last segment of a path that is for the machine without an explicit scheme.
const SEGMENT: &str = "mcp";

/// The schemes whose lines are driven by a machine, at some paths or at all.
pub(crate) struct Exchanges {
    client: Arc<Client>,
    others: EventStreams,
    machine: NewExchange,
}

impl Exchanges {
    pub(crate) fn new(client: Arc<Client>, machine: NewExchange) -> Self {
        Self { others: EventStreams(client.clone()), client, machine }
    }
}

impl Scheme for Exchanges {
    fn connector(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<Box<dyn DynConnector>, TransportError> {
        let address = WebAddress::of(endpoint)?;
        let is_explicit = endpoint.scheme().starts_with(MCP);
        if !is_explicit && (endpoint.is_carrier() || !address.ends_with(SEGMENT)) {
            return self.others.connector(endpoint, options);
        }
        options.channel.validate()?;
        if endpoint.framing().is_some() {
            let kind = ErrorKind::UnsupportedOperation;
            let error = TransportError::new(kind, Operation::Configure);
            return Err(error.with_hint("omit the framing: HTTP delimits messages itself"));
        }
        let kind = TransportKind::custom(match endpoint.scheme().trim_start_matches(MCP) {
            "https" => "https",
            "http-unix" => "http-unix",
            "http-pipe" => "http-pipe",
            _ => "http",
        });
        let dialer = Dialer::new(self.client.clone(), endpoint, address, options)?;
        Ok(Box::new(ExchangeConnector {
            dialer: Arc::new(dialer),
            endpoint: endpoint.clone(),
            kind,
            channel: options.channel,
            machine: self.machine,
        }))
    }

    fn listen<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        options: &'a Options,
    ) -> BoxFuture<'a, Result<Box<dyn DynAcceptor>, TransportError>> {
        self.others.listen(endpoint, options)
    }
}

struct ExchangeConnector {
    dialer: Arc<Dialer>,
    endpoint: Endpoint,
    kind: TransportKind,
    channel: ChannelConfig,
    machine: NewExchange,
}

impl Connector for ExchangeConnector {
    type Channel = EventChannel;

    /// Opens the first connection, so that a server that cannot be reached is an error of connecting.
    async fn connect(&self) -> Result<EventChannel, TransportError> {
        let connections = Connections::new(self.dialer.clone(), self.channel.stall_timeout);
        let peer = self.dialer.in_time(&self.endpoint, connections.open_first()).await?;
        let (channel, backend) = pair(ChannelParams {
            kind: self.kind,
            endpoint: self.endpoint.clone(),
            peer,
            principal: None,
            unauthenticated: false,
            config: self.channel,
            memory: self.dialer.memory.clone(),
            is_carrier: false,
            half_close: true,
            acknowledges_late: false,
        });
        backend.goes_over(connections.progress());
        let machine = (self.machine)(self.channel.max_message);
        tokio::spawn(drive::drive(machine, Arc::new(connections), backend));
        Ok(channel)
    }
}

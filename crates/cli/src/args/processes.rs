//! Options for `tieline serve` that say which clients use the same program.

use std::time::Duration;

use clap::Args as Group;
use tieline_gateway::{NotShareable, ProcessModel, Processes, UnknownProcessModel};
use tieline_rpc::Dialect;

use super::values::{at_least_one, probe_interval, up_to_a_day};
use crate::report::Failure;

#[derive(Group)]
pub(crate) struct ProcessModels {
    /// Clients that use the same program: per-client (none), shared (all), per-user, or pool:N (none, and
    /// N programs are started ahead)
    ///
    /// With shared and per-user, --dialect must be mcp or strict. Responses, progress and updates of
    /// subscribed resources go to the clients that asked for them; other notifications reach all
    /// clients. The program's own requests go to the only client with a call in flight; otherwise, they
    /// are answered with an error.
    ///
    /// With pool:N, a client gets a program that is already running. It is used by this client only, and
    /// then replaced. Every dialect can be used.
    #[arg(long, value_name = "MODEL", default_value = "per-client", value_parser = process_model)]
    process: ProcessModel,
    /// Stop a shared program that has had no client for TIME
    ///
    /// MCP clients without sessions (2026-07-28) also share programs, whatever the model.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = up_to_a_day)]
    idle_timeout: Duration,
    /// Run at most N programs at once that are shared or in a pool, and refuse clients that need another
    /// one
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    max_programs: usize,
    /// Ping the program every TIME, and stop it if it does not answer three times [default: 30s]
    ///
    /// The line of a program that was stopped ends with the reason, or the program is restarted with
    /// --restart. A program that sends anything else in the meantime is not stopped. Only MCP has a ping,
    /// and only a program that has answered its first request is pinged.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "30s", value_parser = probe_interval, hide_short_help = true)]
    probe: Option<Duration>,
}

fn process_model(name: &str) -> Result<ProcessModel, UnknownProcessModel> {
    name.parse()
}

impl ProcessModels {
    pub(crate) fn model(&self) -> ProcessModel {
        self.process
    }

    pub(crate) fn processes(&self) -> Processes {
        let (model, idle_timeout) = (self.process, self.idle_timeout);
        Processes { model, idle_timeout, max_programs: self.max_programs }
    }

    /// Returns how often programs are pinged. `has_mcp` says whether there is a listener for MCP clients.
    ///
    /// # Errors
    /// The protocol is not known, or it has no ping.
    pub(crate) fn probe(
        &self,
        dialect: Option<Dialect>,
        has_mcp: bool,
    ) -> Result<Option<Duration>, Failure> {
        let problem = match dialect {
            _ if self.probe.is_none() => return Ok(None),
            Some(Dialect { ping: Some(_), .. }) => return Ok(self.probe),
            None if has_mcp => return Ok(self.probe),
            Some(dialect) => format!(
                "the dialect {} has no ping, so a program cannot be asked whether it still answers. Leave out --probe",
                dialect.name
            ),
            None => "pings can only be sent if the protocol is known. Add --dialect mcp if the program is an MCP \
                     server"
                .into(),
        };
        Err(Failure::Usage(format!("--probe: {problem}")))
    }

    /// Checks that the model can be used with all listeners.
    ///
    /// # Errors
    /// The model depends on the identity of clients, but the clients of `anonymous` have none.
    pub(crate) fn check(&self, anonymous: Option<&str>) -> Result<(), Failure> {
        match anonymous.filter(|_| self.process == ProcessModel::PerUser) {
            Some(anonymous) => Err(Failure::Usage(format!(
                "--process per-user cannot be used with {anonymous}, whose clients cannot be told apart. Use unix: \
                 or http: with a token, or --process shared"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the failure for a model that the dialect does not allow.
    pub(crate) fn refused(&self, error: NotShareable) -> Failure {
        let hint = match error {
            NotShareable::PoolTooLarge { .. } => "Use a smaller pool, or raise --max-programs",
            NotShareable::NoDialect => {
                "Add --dialect mcp if the program is an MCP server, --dialect strict if it speaks other JSON-RPC 2.0, \
                 or use --process per-client"
            }
            _ => "Use --process per-client",
        };
        Failure::Usage(format!("--process {}: {error}. {hint}", self.process))
    }
}

//! Checks of the conditions that both ends must satisfy together.

use super::end::End;
use super::world::{Kind, World};

impl World<'_> {
    /// Returns both ends of the client's session: the client's and the server's.
    fn both(&self) -> Option<(&End, &End)> {
        let served = self.table.get(self.client.record?)?.as_ref()?;
        Some((&self.client, &served.end))
    }

    /// Checks that the ends of a session that continues are consistent.
    pub(super) fn check_agreement(&self) -> Result<(), String> {
        let Some((client, server)) = self.both() else { return Ok(()) };
        if client.connection != server.connection || !self.is_open {
            // The client's welcome does not match the server's memory, which the next greeting reveals.
            return Ok(());
        }
        client.agrees_with(server)?;
        server.agrees_with(client)
    }

    /// Returns whether all messages were delivered and both ends know this.
    pub(super) fn is_complete(&mut self) -> Result<bool, String> {
        let Some((client, server)) = self.both() else { return Ok(false) };
        if !client.session.is_settled() || !server.session.is_settled() {
            return Ok(false);
        }
        let is_resumed = self.is_open && client.connection == server.connection;
        if self.kind == Kind::RolledBack && !is_resumed {
            // One end may have forgotten messages that are settled for the other.
            return Ok(false);
        }
        for (end, other) in [(client, server), (server, client)] {
            end.agrees_with(other)?;
            let (had, sent) = (end.app.delivered.len(), other.app.sent.len());
            if had != sent || other.app.left > 0 || !end.app.has_ended {
                return Err(format!(
                    "{:?} has {had} of {sent} messages, but everything is settled",
                    end.side
                ));
            }
        }
        self.totals.complete += 1;
        Ok(true)
    }

    /// Checks the statements that the ends would make about their sessions at this time.
    pub(super) fn check_words(&self) -> Result<(), String> {
        self.client.check_words(&self.records)?;
        let mut served = self.table.iter().flatten();
        served.try_for_each(|it| it.end.check_words(&self.records))
    }
}

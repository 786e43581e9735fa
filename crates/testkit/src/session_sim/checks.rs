//! Conditions that must hold for both ends together.

use super::end::End;
use super::world::{Kind, World};

impl World<'_> {
    /// Returns the client's session and the server's end of it.
    fn both(&self) -> Option<(&End, &End)> {
        let served = self.table.get(self.client.record?)?.as_ref()?;
        Some((&self.client, &served.end))
    }

    /// A session that continues must be consistent.
    pub(super) fn check_agreement(&self) -> Result<(), String> {
        let Some((client, server)) = self.both() else { return Ok(()) };
        if client.connection != server.connection || !self.is_open {
            // The welcome is older than the server's memory: the next greeting reveals that.
            return Ok(());
        }
        client.agrees_with(server)?;
        server.agrees_with(client)
    }

    /// Returns whether everything was delivered and both ends know it.
    pub(super) fn is_complete(&mut self) -> Result<bool, String> {
        let Some((client, server)) = self.both() else { return Ok(false) };
        if !client.session.is_settled() || !server.session.is_settled() {
            return Ok(false);
        }
        let is_resumed = self.is_open && client.connection == server.connection;
        if self.kind == Kind::RolledBack && !is_resumed {
            // What is settled for one end may be forgotten by the other.
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

    /// Everything that the ends would report about their sessions now must be true.
    pub(super) fn check_words(&self) -> Result<(), String> {
        self.client.check_words(&self.records)?;
        let mut served = self.table.iter().flatten();
        served.try_for_each(|it| it.end.check_words(&self.records))
    }
}

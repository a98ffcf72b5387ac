//! The clients' side of the event loop.

use super::machine::BASE_MS;
use super::world::{Event, World};
use crate::types::{Code, Now};
use crate::wire::frame::Kind;
use crate::wire::message::{self, Refused};

impl World {
    fn client_clock(&self) -> Now {
        Now { mono_us: self.now_us, wall_ms: BASE_MS + (self.now_us / 1_000) as i64 }
    }

    pub(super) fn tick_client(&mut self, client: usize) -> Result<(), String> {
        let now = self.client_clock();
        let sends = self.clients[client].tick(now);
        for (operation, key) in std::mem::take(&mut self.clients[client].signed) {
            self.checker.signed(operation, key);
        }
        for send in sends {
            for replica in (0..self.plan.n).filter(|replica| send.replicas & (1 << replica) != 0) {
                self.transmit(self.plan.n + client, replica, Kind::Submit, &send.body, 0);
            }
        }
        let next_us = self.clients[client].next_us();
        if next_us != u64::MAX {
            self.schedule(next_us.max(self.now_us + 1).min(self.now_us + 20_000), Event::Client { client });
        } else if !self.clients[client].is_done() {
            self.schedule(self.now_us + 20_000, Event::Client { client });
        }
        Ok(())
    }

    pub(super) fn deliver_to_client(
        &mut self,
        from: usize,
        client: usize,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), String> {
        if self.plan.is_byzantine(from) && self.random.chance(300) {
            return Ok(());
        }
        for accepted in self.clients[client].on_message(from, kind, body)? {
            self.checker.accepted(client, &accepted)?;
        }
        Ok(())
    }

    /// A correct replica refuses for want of room only where there is little, or was a moment ago.
    pub(super) fn look_at_refusal(&mut self, replica: usize, kind: Kind, body: &[u8]) -> Result<(), String> {
        let code = match kind {
            Kind::Refused => message::access::<Refused>(body).map_or(0, |refused| refused.code.to_native()),
            _ => 0,
        };
        if Code(code) != Code::LOW_SPACE || self.plan.is_byzantine(replica) {
            return Ok(());
        }
        self.count("refused for space");
        if self.now_us > self.machines[replica].short_until_us {
            return Err(format!("replica {replica} refuses a write for want of room, and has room"));
        }
        Ok(())
    }
}

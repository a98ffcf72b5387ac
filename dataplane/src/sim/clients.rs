//! The clients' side of the event loop.

use super::client::reply_of;
use super::machine::BASE_MS;
use super::world::{Event, World};
use crate::types::{Code, Now};
use crate::wire::frame::Kind;
use crate::wire::message::{self, Answer, Changes, Refused, Replies, Reply};

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
                self.transmit(self.plan.n + client, replica, send.kind, &send.body, 0);
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
        // The administrator listens to nobody.
        if client >= self.clients.len() || (self.plan.is_byzantine(from) && self.random.chance(300)) {
            return Ok(());
        }
        for accepted in self.clients[client].on_message(from, kind, body)? {
            self.checker.accepted(client, &accepted)?;
        }
        for found in std::mem::take(&mut self.clients[client].found) {
            self.count(if found.at.is_some() { "read at a position" } else { "read as it is" });
            self.checker.read(client, &found)?;
        }
        Ok(())
    }

    /// What a Byzantine replica tells a client: at times another result, or another answer.
    pub(super) fn told_to_client(&mut self, replica: usize, kind: Kind, body: Vec<u8>) -> Vec<u8> {
        if !self.plan.is_byzantine(replica) || self.random.chance(700) {
            return body;
        }
        let (which, by) = (self.random.below(4), self.random.between(1, 3));
        let mut lie = Vec::new();
        match kind {
            Kind::Replies => {
                let Ok(replies) = message::access::<Replies>(&body) else { return body };
                let mut told: Vec<Reply> = replies.replies.iter().map(reply_of).collect();
                for reply in &mut told {
                    match which {
                        0 => reply.entry = reply.entry.saturating_sub(by),
                        1 => reply.code = if reply.code == 0 { 300 } else { 0 },
                        2 => reply.changes = Changes::from_slice(&[0x81, 0x83, 0, by as u8, 0xf6]),
                        _ => reply.time_ms -= by as i64,
                    }
                }
                message::encode(&Replies { bundle: replies.bundle, replies: told }, &mut lie);
            }
            Kind::Answer => {
                let Ok(answer) = message::access::<Answer>(&body) else { return body };
                let (id, code, size) = (answer.id.to_native(), 0, answer.size.to_native() + which);
                let body = [by.to_be_bytes(), [0; 8]].concat();
                message::encode(&Answer { id, code, size, valid_from: answer.valid_from.to_native(), body }, &mut lie);
            }
            _ => return body,
        }
        self.count("lie to a client");
        lie
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

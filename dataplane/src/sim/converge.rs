//! Whether a cluster without faults gets everywhere that it must, and is quiet then.

use super::client::SimClient;
use super::world::{Event, World};

/// The time in which a cluster without faults must converge, us.
const CONVERGENCE_US: u64 = 120_000_000;
/// How long an idle cluster is watched, us.
const IDLE_US: u64 = 5_000_000;
/// How often convergence is looked for, us.
const LOOK_US: u64 = 50_000;

/// The watch over an idle cluster.
#[derive(Clone, Copy)]
pub(super) struct Idle {
    /// When it began, us.
    since_us: u64,
    /// Messages sent until then.
    sent: u64,
    /// What was executed when the cluster had converged first.
    first: u64,
    /// What was executed when the watch began.
    executed: u64,
}

impl World {
    /// What all correct replicas have executed, once they agree, the clients are done, and what these were told is there.
    fn converged(&mut self) -> Option<u64> {
        if !self.clients.iter().all(SimClient::is_done) {
            return None;
        }
        let correct: Vec<usize> = (0..self.plan.n).filter(|replica| !self.is_faulty(*replica)).collect();
        let mut states = Vec::new();
        for replica in correct {
            if let Some(node) = &mut self.machines[replica].node {
                let executed = node.ordering().executed();
                if node.ordering().abstains().is_some() {
                    return None;
                }
                states.push((executed, node.execution_mut().size(), node.execution_mut().state_digest()));
            }
        }
        let first = *states.first()?;
        let equal = states.iter().all(|state| *state == first);
        (equal && self.checker.all_there(first.1)).then_some(first.0)
    }

    pub(super) fn look(&mut self) -> Result<(), String> {
        self.schedule(self.now_us + LOOK_US, Event::Look);
        self.look_at_full()?;
        match (self.converged(), self.idle) {
            (Some(executed), None) => {
                self.idle = Some(Idle { since_us: self.now_us, sent: self.network.sent, first: executed, executed });
            }
            (None, None) if self.now_us > self.plan.safety_us + CONVERGENCE_US => {
                return Err(format!("no convergence: {}", self.where_they_stand()));
            }
            (Some(executed), Some(Idle { since_us, sent, first, executed: before })) => {
                if executed != before {
                    // What was still open ends, by a view change at times with nulls and with what was ordered before; and the
                    // administrator's bundles, for which nobody waits, may lie in pools yet.
                    let most = self.plan.window + self.administrator.said();
                    if executed - first > most && !self.plan.lying_client && self.plan.byzantine.is_empty() {
                        return Err(format!("idle, and sequence {first} became {executed}"));
                    }
                    self.idle = Some(Idle { since_us: self.now_us, sent: self.network.sent, first, executed });
                    return Ok(());
                }
                if self.now_us > since_us + IDLE_US {
                    self.done = true;
                    let pairs = (self.plan.n * (self.plan.n - 1)) as u64;
                    // Idle statuses, twice over, and some for what was still on its way.
                    let most = pairs * (2 * IDLE_US / self.plan.timing.idle_status_us + 20);
                    let sent = self.network.sent - sent;
                    if self.plan.byzantine.is_empty() && !self.plan.lying_client && sent > most {
                        return Err(format!("an idle cluster sends {sent} messages in {IDLE_US} us, at most {most}"));
                    }
                }
            }
            (None, Some(Idle { since_us, .. })) if self.now_us > since_us + IDLE_US + CONVERGENCE_US => {
                return Err(format!("converged and fell apart: {}", self.where_they_stand()));
            }
            _ => {}
        }
        Ok(())
    }

    fn where_they_stand(&self) -> String {
        let replicas = self.machines.iter().enumerate().map(|(replica, machine)| match &machine.node {
            Some(node) => {
                let ordering = node.ordering();
                let abstains = match ordering.abstains() {
                    None => String::new(),
                    Some(None) => ", abstains".into(),
                    Some(Some(needs)) => format!(", abstains until {needs}"),
                };
                format!(
                    "{replica}: {} (stable {}, view {}{}, {} bundles{abstains})",
                    ordering.executed(),
                    ordering.low(),
                    ordering.view(),
                    if ordering.is_active() { "" } else { " asked for" },
                    ordering.pooled()
                )
            }
            None => format!("{replica}: down"),
        });
        let clients = self.clients.iter().map(|client| format!("{} bundles done", client.completed));
        replicas.chain(clients).collect::<Vec<_>>().join(", ")
    }
}

//! Links that break and are made again: sealed sessions turn damaged bytes into that.

use super::world::{Event, World};
use crate::types::ReplicaId;

/// The longest time until a broken link is made again, us.
const REMADE_US: u64 = 50_000;

impl World {
    /// What a node sends was damaged on its way: its receiver ends the link, and what was sent is lost.
    pub(super) fn damaged(&mut self, from: usize, to: usize) {
        self.count("messages damaged");
        self.break_link(from, to);
    }

    /// A link that breaks again and again, until then.
    pub(super) fn flap(&mut self, from: usize, to: usize, until_us: u64) {
        if self.stable || self.now_us >= until_us {
            return;
        }
        self.count("link broken while flapping");
        let down_us = self.break_link(from, to);
        let next_us = self.now_us + down_us + self.random.between(1, 2 * REMADE_US);
        self.schedule(next_us, Event::Flap { from, to, until_us });
    }

    /// Breaks a link; in how many us it is made again.
    fn break_link(&mut self, a: usize, b: usize) -> u64 {
        let down_us = self.random.between(1, REMADE_US);
        self.network.block(a, b, self.now_us + down_us);
        self.network.block(b, a, self.now_us + down_us);
        self.tell_ends(a, b, false);
        self.schedule(self.now_us + down_us, Event::LinkUp { a, b });
        down_us
    }

    /// A link is made again, if both ends are there and nothing else keeps them apart.
    pub(super) fn link_up(&mut self, a: usize, b: usize) {
        let there = |node: usize| self.machines.get(node).is_none_or(|machine| machine.node.is_some());
        if there(a) && there(b) && self.network.passes(a, b, self.now_us) && self.network.passes(b, a, self.now_us) {
            self.tell_ends(a, b, true);
        }
    }

    fn tell_ends(&mut self, a: usize, b: usize, up: bool) {
        if a.max(b) >= self.plan.n {
            // Clients' links are only kept by them.
            return;
        }
        for (replica, peer) in [(a, b), (b, a)] {
            let machine = &mut self.machines[replica];
            let Some(node) = &mut machine.node else { continue };
            node.on_link(ReplicaId(peer as u8), up);
            if !std::mem::replace(&mut machine.turn_due, true) {
                let life = machine.life;
                self.schedule(self.now_us, Event::Turn { replica, life });
            }
        }
    }
}

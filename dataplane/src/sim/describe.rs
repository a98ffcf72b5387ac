//! Events in words, for traces.

use super::world::Event;
use crate::types::Digest;
use crate::wire::frame::Kind;
use crate::wire::message::{self, ArchivedVote, Batch, Decided, FetchBatch, PrePrepare, Refused, Status, Votes};

fn votes(votes: &[ArchivedVote]) -> String {
    let each: Vec<_> =
        votes.iter().map(|vote| format!("{}:{:?}", vote.sequence.to_native(), Digest(vote.digest))).collect();
    each.join(" ")
}

/// One line about an event in a cluster of `n` replicas.
pub(super) fn event(event: &Event, n: usize) -> String {
    let node = |index: usize| if index < n { format!("replica {index}") } else { format!("client {}", index - n) };
    match event {
        Event::Deliver { from, to, kind, body } => {
            format!("{} -> {}: {}", node(*from), node(*to), message(*kind, body))
        }
        Event::Turn { replica, .. } => format!("replica {replica}: turn"),
        Event::Wake { replica, .. } => format!("replica {replica}: timer"),
        Event::Checked { replica, .. } => format!("replica {replica}: signatures were checked"),
        Event::Saved { replica, .. } => format!("snapshot of replica {replica} is durable"),
        Event::DiskDone { replica, .. } => format!("replica {replica}: write done"),
        Event::Client { client } => format!("client {client}: timer"),
        Event::KeyChange => "the administrator says something".to_owned(),
        Event::Restart { replica } => format!("replica {replica}: restart"),
        Event::Falls { replica, .. } => format!("replica {replica}: goes down"),
        Event::Readable { replica } => format!("replica {replica}: its disk can be read again"),
        Event::Room { replica } => format!("replica {replica}: its disk has room again"),
        Event::Fault => "time for a fault".to_owned(),
        Event::Flap { from, to, .. } => format!("{} - {}: the link breaks", node(*from), node(*to)),
        Event::LinkUp { a, b } => format!("{} - {}: the link is made again", node(*a), node(*b)),
        Event::LinksUp => "links are up again".to_owned(),
        Event::Stabilise => "faults stop".to_owned(),
        Event::Look => "has everything converged?".to_owned(),
    }
}

fn message(kind: Kind, body: &[u8]) -> String {
    let words = match kind {
        Kind::PrePrepare => message::access::<PrePrepare>(body)
            .map(|m| format!("view {} {}:{:?} {} bundles", m.view, m.sequence, Digest(m.digest), m.bundles.len())),
        Kind::Prepare | Kind::Commit => Votes::access(body).map(|m| format!("view {} {}", m.view, votes(&m.votes))),
        Kind::Decided => message::access::<Decided>(body).map(|m| votes(&m.decided)),
        Kind::Status => message::access::<Status>(body).map(|m| {
            let open: Vec<_> = m
                .open
                .iter()
                .map(|o| {
                    format!("{}{}/{:b}/{:b}", o.sequence, if o.proposed { "+" } else { "" }, o.prepares, o.commits)
                })
                .collect();
            format!(
                "view {}{} low {} executed {} ask {} open {}",
                m.view,
                if m.active { "" } else { "?" },
                m.low,
                m.executed,
                m.ask,
                open.join(" ")
            )
        }),
        Kind::ViewChange => message::access::<message::ViewChange>(body)
            .map(|m| format!("view {}, {} bytes", m.body.first().copied().unwrap_or(0), m.body.len())),
        Kind::NewView => message::access::<message::NewView>(body)
            .map(|m| format!("view {}, {} bytes", m.body.first().copied().unwrap_or(0), m.body.len())),
        Kind::FetchBatch => {
            message::access::<FetchBatch>(body).map(|m| format!("{}:{:?}", m.sequence, Digest(m.digest)))
        }
        Kind::Batch => message::access::<Batch>(body).map(|m| format!("{}:{:?}", m.sequence, Digest(m.digest))),
        Kind::Cosignature => message::access::<message::Cosignature>(body)
            .map(|m| format!("{}:{:?}{}", m.size, Digest(m.root), if m.again { ", asks for the other's" } else { "" })),
        Kind::Refused => message::access::<Refused>(body).map(|m| format!("code {}", m.code)),
        _ => Ok(format!("{} bytes", body.len())),
    };
    format!("{kind:?} {}", words.unwrap_or_else(|error| format!("({error})")))
}

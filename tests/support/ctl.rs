//! A person at a replica's control socket.

use std::path::PathBuf;

use atlas_control::client::{Client, ClientReply};

use super::{Cluster, PATIENCE, until};

pub fn run_directory(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.home(index).join("data/run")
}

pub fn try_connect(cluster: &Cluster, index: usize, level: &str) -> Option<Client> {
    Client::connect(&run_directory(cluster, index).join(format!("{level}.sock")), PATIENCE).ok()
}

/// A connection; the sockets come a moment after the replica serves.
pub fn connect(cluster: &Cluster, index: usize, level: &str) -> Client {
    let mut client = None;
    until(&format!("replica {index} serves {level}.sock; it printed {}", cluster.log_text(index)), || {
        client = try_connect(cluster, index, level);
        client.is_some()
    });
    client.unwrap()
}

pub fn ask(ctl: &mut Client, command: &str) -> ClientReply {
    ctl.ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
}

pub fn done(ctl: &mut Client, command: &str) -> ClientReply {
    let reply = ask(ctl, command);
    assert!(reply.is_success(), "{command}: {reply:?}");
    reply
}
